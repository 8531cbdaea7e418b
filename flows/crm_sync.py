"""Deployment crm-sync. Every event to the CRM, and what it changes to the state topics."""

from __future__ import annotations

from prefect import flow

from flows._stream import run_stream


@flow(name="crm-sync")
def crm_sync() -> None:
    """Every event to the CRM, and what it changes to the state topics. Runs until cancelled."""
    run_stream("crm-sync")
