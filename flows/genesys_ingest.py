"""Deployment genesys-ingest. Genesys: every tenant's event stream to Kafka."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="genesys-ingest")
def genesys_ingest() -> None:
    """Genesys: every tenant's event stream to Kafka. Runs until cancelled."""
    run_stream("genesys-ingest")
