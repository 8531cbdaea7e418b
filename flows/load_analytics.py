"""Deployment load-analytics. `conversations`, then `daily_analytics`."""

from __future__ import annotations

from datetime import datetime

from prefect import flow

from flows._load import retry_while_down, run_id, show_result, window_of
from streaming.settings import load_settings
from warehouse.ledger import LoadResult
from warehouse.load_conversations import load_conversations
from warehouse.load_daily import load_daily_analytics
from warehouse.schema import open_warehouse
from warehouse.windows import Window


@flow(name="load-analytics")
def load_analytics(start: datetime | None = None, end: datetime | None = None) -> int:
    """Build one row a conversation, and the days of queues and agents. Idempotent for any window.

    Args:
        start: Start of a window, UTC: conversations with an event in it are rebuilt, and the days that it touches,
            whole. Empty: those that new events change.
        end: Its end, exclusive.

    Returns:
        Rows written to both tables.
    """
    results = _load(window_of(start, end))
    for result in results:
        show_result(result)
    return sum(result.rows for result in results)


@retry_while_down
def _load(window: Window | None) -> list[LoadResult]:
    with open_warehouse(load_settings()) as warehouse:
        return [
            load_conversations(warehouse, window, run_id=run_id()),
            load_daily_analytics(warehouse, window, run_id=run_id()),
        ]
