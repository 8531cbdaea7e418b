"""What completed when in the conversations in scope: the source of cells, conversation rows and daily analytics."""

from __future__ import annotations

import sqlalchemy as sa

from warehouse import scratch
from warehouse.statements import run, statements

_ALWAYS = (-(2**63), 2**63 - 1)


def insert_facts(connection: sa.Connection) -> None:
    """``conversation_scope`` → ``queue_facts``, which the caller has emptied.

    Without an index DuckDB would read fifteen columns of all events for a few conversations. So it looks first, in one
    of them, when these took place.
    """
    scratch.analyze(connection, scratch.conversation_scope)
    first_ms, last_ms = _ALWAYS
    if connection.dialect.name == "duckdb":
        first_ms, last_ms = connection.execute(statements("facts")["span"]).one()
    run(connection, "facts", "insert", first_ms=first_ms, last_ms=last_ms)
    scratch.analyze(connection, scratch.queue_facts)
