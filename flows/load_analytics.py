"""Deployment load-analytics. `conversations`."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows._load import run_id, show_result, window_of
from streaming.settings import load_settings
from warehouse.load_conversations import load_conversations
from warehouse.schema import open_warehouse


@flow(name="load-analytics", retries=2, retry_delay_seconds=15)
def load_analytics(start: datetime | None = None, end: datetime | None = None) -> int:
    """Build one row a conversation. Idempotent for any window.

    Args:
        start: Start of a window, UTC: conversations with an event in it are rebuilt. Empty: those with new events.
        end: Its end, exclusive.

    Returns:
        Rows written.
    """
    with open_warehouse(load_settings()) as warehouse:
        result = load_conversations(warehouse, window_of(start, end), run_id=run_id())
    show_result(result)
    return result.rows
