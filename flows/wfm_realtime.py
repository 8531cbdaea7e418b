"""Deployment wfm-realtime. Live queues and agents."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="wfm-realtime")
def wfm_realtime() -> None:
    """Live queues and agents, on Kafka and on a page. Runs until cancelled."""
    run_stream("wfm-realtime")
