"""The state database: leases and stream cursors. SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import make_url

from streaming.errors import ConfigurationError, ServiceUnavailableError

metadata = sa.MetaData()

lease = sa.Table(
    "lease",
    metadata,
    sa.Column("name", sa.String(300), primary_key=True),
    # Who holds it; empty once it was given back.
    sa.Column("holder", sa.String(64), nullable=False),
    # Grows by one with every change of holder: the fencing token.
    sa.Column("epoch", sa.BigInteger, nullable=False),
    # Grows with every renewal; observers compare it with what they saw, never with a clock.
    sa.Column("beat", sa.BigInteger, nullable=False),
)

stream_cursor = sa.Table(
    "stream_cursor",
    metadata,
    sa.Column("vendor", sa.String(100), primary_key=True),
    sa.Column("tenant_id", sa.String(100), primary_key=True),
    sa.Column("stream", sa.String(100), primary_key=True),
    sa.Column("cursor", sa.Text, nullable=False),
    sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
)


def open_state(url: str) -> sa.Engine:
    """An engine on the state database, its tables made if they are not there.

    Args:
        url: SQLAlchemy URL, ``sqlite:///…`` or ``postgresql+psycopg://…``.

    Raises:
        ConfigurationError: the URL is none, or of another database.
        ServiceUnavailableError: the database does not answer.
    """
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError:
        msg = "state.url: no SQLAlchemy URL; give e.g. postgresql+psycopg://user:password@host/database"
        raise ConfigurationError(msg) from None
    if parsed.get_backend_name() == "sqlite" and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        # Several processes share the file: WAL lets them read while one writes, and a writer waits its turn.
        engine = sa.create_engine(parsed, connect_args={"timeout": 15})
        sa.event.listen(engine, "connect", _sqlite_pragmas)
    elif parsed.get_backend_name() == "postgresql":
        engine = sa.create_engine(parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    else:
        msg = f"state.url: {parsed.get_backend_name()} is not supported; give sqlite:///… or postgresql://…"
        raise ConfigurationError(msg)
    for attempt in (1, 2):
        try:
            metadata.create_all(engine, checkfirst=True)
        except (sa.exc.OperationalError, sa.exc.ProgrammingError, sa.exc.IntegrityError) as error:
            if attempt == 1:
                continue  # two processes made the tables at once
            engine.dispose()
            msg = f"state database {parsed.render_as_string(hide_password=True)}: {type(error).__name__}"
            raise ServiceUnavailableError(msg) from None
        break
    return engine


def _sqlite_pragmas(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


class CursorMove(NamedTuple):
    """A cursor to store, and the lease that entitles to it."""

    tenant_id: str
    cursor: str
    lease_name: str
    epoch: int


class CursorStore:
    """Where each stream stands, written only under the lease that entitles to it.

    Args:
        engine: State database.
        stream: Name of the kind of stream, e.g. ``sse``.
    """

    def __init__(self, engine: sa.Engine, vendor: str, stream: str) -> None:
        self._engine = engine
        self._vendor = vendor
        self._stream = stream

    def read(self, tenant_id: str) -> str | None:
        """The stored cursor, None before the first."""
        query = sa.select(stream_cursor.c.cursor).where(*self._key(tenant_id))
        with self._engine.connect() as connection:
            return connection.execute(query).scalar_one_or_none()

    def write(self, moves: Iterable[CursorMove]) -> set[str]:
        """Store cursors, each only if its lease is still held under its epoch; all in one transaction.

        Returns:
            Tenants whose lease is no longer held; nothing was written for them.
        """
        now = datetime.now(UTC)
        fenced: set[str] = set()
        with self._engine.begin() as connection:
            for move in moves:
                # Locks the lease's row, so that nobody takes it over between this check and the write.
                entitled = (lease.c.name == move.lease_name, lease.c.epoch == move.epoch)
                held = connection.execute(sa.update(lease).where(*entitled).values(beat=lease.c.beat))
                if held.rowcount != 1:
                    fenced.add(move.tenant_id)
                    continue
                moved = (
                    sa.update(stream_cursor)
                    .where(*self._key(move.tenant_id))
                    .values(cursor=move.cursor, updated_at=now)
                )
                if connection.execute(moved).rowcount == 0:
                    connection.execute(
                        sa.insert(stream_cursor).values(
                            vendor=self._vendor,
                            tenant_id=move.tenant_id,
                            stream=self._stream,
                            cursor=move.cursor,
                            updated_at=now,
                        )
                    )
        return fenced

    def _key(self, tenant_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        c = stream_cursor.c
        return (c.vendor == self._vendor, c.tenant_id == tenant_id, c.stream == self._stream)
