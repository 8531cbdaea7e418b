"""Deployment load-analytics. `conversations`."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows._load import retry_while_down, run_id, show_result, window_of
from streaming.settings import load_settings
from warehouse.ledger import LoadResult
from warehouse.load_conversations import load_conversations
from warehouse.schema import open_warehouse
from warehouse.windows import Window


@flow(name="load-analytics")
def load_analytics(start: datetime | None = None, end: datetime | None = None) -> int:
    """Build one row a conversation. Idempotent for any window.

    Args:
        start: Start of a window, UTC: conversations with an event in it are rebuilt. Empty: those with new events.
        end: Its end, exclusive.

    Returns:
        Rows written.
    """
    result = _load(window_of(start, end))
    show_result(result)
    return result.rows


@retry_while_down
def _load(window: Window | None) -> LoadResult:
    with open_warehouse(load_settings()) as warehouse:
        return load_conversations(warehouse, window, run_id=run_id())
