"""The state database: leases, cursors, public keys, how far is reconciled. SQLite by default, PostgreSQL by URL."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
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

signing_key = sa.Table(
    "signing_key",
    metadata,
    sa.Column("vendor", sa.String(100), primary_key=True),
    sa.Column("tenant_id", sa.String(100), primary_key=True),
    sa.Column("kid", sa.String(300), primary_key=True),
    # Public part, RFC 7517.
    sa.Column("jwk", sa.Text, nullable=False),
    # Epoch s of the fetch; the same for all of a tenant's keys.
    sa.Column("fetched_at", sa.Double, nullable=False),
)

reconciled_through = sa.Table(
    "reconciled_through",
    metadata,
    sa.Column("vendor", sa.String(100), primary_key=True),
    sa.Column("tenant_id", sa.String(100), primary_key=True),
    # Epoch ms: what ended before it is reconciled. Only grows.
    sa.Column("through_ms", sa.BigInteger, nullable=False),
)

# What services noticed and people are to be told: an outbox, so that a burst becomes one alert and none is lost.
drift = sa.Table(
    "drift",
    metadata,
    sa.Column("vendor", sa.String(100), primary_key=True),
    sa.Column("tenant_id", sa.String(100), primary_key=True),
    # failure or unmapped_field
    sa.Column("kind", sa.String(30), primary_key=True),
    # Of a failure its stage, reason and path; of a field its metadata key. Shortened.
    sa.Column("what", sa.String(500), primary_key=True),
    # Of a failure the hour, epoch ms; of a field 0, since it is new only once.
    sa.Column("hour_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    # Of one such event: native type, message. JSON.
    sa.Column("sample", sa.Text, nullable=False),
    sa.Column("noticed_ms", sa.BigInteger, nullable=False),
    # When it was told, epoch ms; NULL while it waits.
    sa.Column("told_ms", sa.BigInteger, index=True),
)

_POSTGRESQL_TIMEOUTS = {
    "connect_timeout": 10,
    "options": "-c statement_timeout=15000",
    "tcp_user_timeout": 15_000,
}


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
        # A database that hangs is one that does not answer: nobody waits for it without end.
        engine = sa.create_engine(
            parsed.set(drivername="postgresql+psycopg"), pool_pre_ping=True, connect_args=_POSTGRESQL_TIMEOUTS
        )
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


def insert(connection: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say what becomes of a row that is there already (``on_conflict_…``), on either database."""
    return postgresql.insert(table) if connection.dialect.name == "postgresql" else sqlite.insert(table)


def _sqlite_pragmas(connection: sa.engine.interfaces.DBAPIConnection, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


class CursorMove(NamedTuple):
    """A cursor to store, and the lease that entitles to it."""

    tenant_id: str
    stream: str
    cursor: str
    lease_name: str
    epoch: int


class CursorStore:
    """Where each of a vendor's streams stands, written only under the lease that entitles to it.

    Args:
        engine: State database.
        vendor: Whose streams.
    """

    def __init__(self, engine: sa.Engine, vendor: str) -> None:
        self._engine = engine
        self._vendor = vendor

    def read(self, tenant_id: str, stream: str) -> str | None:
        """The stored cursor of a tenant's kind of stream (``sse``, …), None before the first."""
        return self.read_all([tenant_id]).get((tenant_id, stream))

    def read_all(self, tenant_ids: Iterable[str]) -> dict[tuple[str, str], str]:
        """All stored cursors of some tenants, by tenant and kind of stream."""
        c = stream_cursor.c
        query = sa.select(c.tenant_id, c.stream, c.cursor).where(
            c.vendor == self._vendor, c.tenant_id.in_(list(tenant_ids))
        )
        with self._engine.connect() as connection:
            return {(row.tenant_id, row.stream): row.cursor for row in connection.execute(query)}

    def write(self, moves: Iterable[CursorMove]) -> set[str]:
        """Store cursors, each only if its lease is still held under its epoch; all in one transaction.

        Returns:
            Tenants whose lease is no longer held; nothing was written for them.
        """
        now = datetime.now(UTC)
        by_lease: dict[tuple[str, int], list[CursorMove]] = {}
        for move in moves:
            by_lease.setdefault((move.lease_name, move.epoch), []).append(move)
        fenced: set[str] = set()
        with self._engine.begin() as connection:
            for (name, epoch), owned in by_lease.items():
                # Locks the lease's row, so that nobody takes it over between this check and the write.
                entitled = (lease.c.name == name, lease.c.epoch == epoch)
                held = connection.execute(sa.update(lease).where(*entitled).values(beat=lease.c.beat))
                if held.rowcount != 1:
                    fenced.update(move.tenant_id for move in owned)
                    continue
                for move in owned:
                    self._store(connection, move, now)
        return fenced

    def _store(self, connection: sa.Connection, move: CursorMove, now: datetime) -> None:
        c = stream_cursor.c
        key = (c.vendor == self._vendor, c.tenant_id == move.tenant_id, c.stream == move.stream)
        moved = sa.update(stream_cursor).where(*key).values(cursor=move.cursor, updated_at=now)
        if connection.execute(moved).rowcount == 0:
            values = {"vendor": self._vendor, "tenant_id": move.tenant_id, "stream": move.stream}
            connection.execute(sa.insert(stream_cursor).values(**values, cursor=move.cursor, updated_at=now))
