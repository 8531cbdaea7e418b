"""Deployment cxone-receiver. CXone: webhooks to the durable spool."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="cxone-receiver")
def cxone_receiver() -> None:
    """CXone: webhooks to the durable spool. Runs until cancelled."""
    run_stream("cxone-receiver")
