"""Deployment analytics-sink. Kafka to Parquet files in the landing zone."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="analytics-sink")
def analytics_sink() -> None:
    """Kafka to Parquet files in the landing zone. Runs until cancelled."""
    run_stream("analytics-sink")
