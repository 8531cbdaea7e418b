"""Deployment cxone-publisher. CXone: the spools and the polled agent states to Kafka."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="cxone-publisher")
def cxone_publisher() -> None:
    """CXone: the spools and the polled agent states to Kafka. Runs until cancelled."""
    run_stream("cxone-publisher")
