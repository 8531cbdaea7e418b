"""A caller's data removed from everything that the platform keeps, step by step, each of which can be repeated.

1. Landing files tell which conversations are the caller's, beside those that the warehouse knows.
2. In one transaction: the caller and these conversations go on the list of the suppressed, the warehouse's rows are
   cleaned, and the audit record begins. From here on no load brings anything back.
3. What was changed goes from the database's own files, and readers get a new copy.
4. Landing files are written anew.
5. Live state on Kafka is replaced.
6. The audit record ends.

Killed anywhere, the same request again does what is left: whatever step 2 found is on the list, by which 4 and 5 work,
and the landing files that 1 reads are changed only after 2. Two at once do the same twice.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa

from streaming.erasure.landing import Rewritten, rewrite
from streaming.erasure.personal import ErasureKey, Mode, Owner, Rule, Suppressed
from streaming.instants import to_ms
from streaming.sink.landing_lease import Held
from warehouse import callers, scratch, tables
from warehouse.callers import Landed, Request
from warehouse.cleaning import Cleaner, temporary
from warehouse.engine import Warehouse, publish_read_copy, writer
from warehouse.statements import run as execute
from warehouse.statements import statements
from warehouse.storage import forget_deleted
from warehouse.suppression import ADDRESS, CONVERSATION, Entry, put_on_list, read_list

_CHANGED = (tables.events, tables.reconciled_events, tables.conversations, tables.failed_events)

_samples = temporary("erasure_samples", "sample")


class Erasure(NamedTuple):
    """What was done, or would be.

    Attributes:
        erasure_id: Its row in ``erasures``; None of a dry run.
        conversations: The caller's, parents and children included.
        counts: What lost something, by place.
        unreadable: Landing files that can't be read; delete or mend them, and run again.
    """

    erasure_id: str | None
    conversations: int
    counts: Mapping[str, int]
    unreadable: tuple[str, ...]


class Places(NamedTuple):
    """The places outside the warehouse's database.

    Attributes:
        landing_lease: Held while landing files are replaced.
        live_state: Cleans a tenant's by the list (or, told ``dry_run``, counts) and gives the number of records.
    """

    landing_lease: Callable[[], AbstractContextManager[Held]]
    live_state: Callable[[Owner, Suppressed, bool], int]


class _Run(NamedTuple):
    warehouse: Warehouse
    request: Request
    key: ErasureKey
    erasure_id: str
    dry_run: bool

    @property
    def subject(self) -> str:
        """What was asked for, as digests."""
        request = self.request
        digests = [self.key.conversation(request.owner, id_) for id_ in sorted(request.conversation_ids)]
        if request.address is not None:
            digests.insert(0, self.key.address(request.owner, request.address))
        return orjson.dumps(digests).decode()


class _Found(NamedTuple):
    conversations: int
    counts: dict[str, int]
    suppressed: Suppressed


def erase(
    warehouse: Warehouse,
    request: Request,
    places: Places,
    *,
    run_id: str,
    requested_by: str | None = None,
    dry_run: bool = False,
    on_step: Callable[[str], None] = lambda _: None,
) -> Erasure:
    """Erase a caller's data, or count it. Again changes nothing.

    Args:
        warehouse: The warehouse, migrated, with ``erasure_key``.
        request: Whose.
        places: The others.
        run_id: The caller's id for the audit record.
        requested_by: Who asked for it, for the audit record; not the erased person.
        dry_run: Only count.
        on_step: Told what has just been done.

    Raises:
        ConfigurationError: no key or another one, or too many conversations.
        WarehouseBusyError: a load kept the lock.
        ServiceUnavailableError: a place does not answer. What is done stays done; run again.
        FencedError: another process took the landing files; run again.
        OSError: a disk is full or broken; run again.
    """
    run = _Run(warehouse, request, ErasureKey(warehouse.erasure_key), str(uuid.uuid4()), dry_run)
    landed = callers.read_landing(warehouse.store, request, run.key)
    on_step("landing files read")
    begin = {"run_id": run_id, "requested_by": requested_by}
    found = _erase_in_database(run, landed, begin)
    on_step("warehouse")
    if not dry_run:
        forget_deleted(warehouse, _CHANGED)
        on_step("database files")
        publish_read_copy(warehouse, force=True)
        on_step("readers' copy")
    with places.landing_lease() as lease:
        rewritten = rewrite(warehouse.store, found.suppressed, lease.is_ours, dry_run=dry_run)
    on_step("landing files")
    records = places.live_state(request.owner, found.suppressed, dry_run)
    on_step("live state")
    counts = {**found.counts, **_of_places(rewritten, records)}
    if not dry_run:
        _finish(run, counts, rewritten)
        on_step("audit record")
    return Erasure(None if dry_run else run.erasure_id, found.conversations, counts, rewritten.unreadable)


def apply_list(warehouse: Warehouse, places: Places, *, dry_run: bool = False) -> Erasure:
    """Look again for everybody who was erased, in what came to landing zone, live state and dead letters since.

    Loads leave their data out by themselves. Nothing is erased anew, so there is no audit record.

    Raises:
        As :func:`erase`.
    """
    with writer(warehouse) as connection, connection.begin():
        if not connection.execute(statements("erasure")["is_any"]).scalar_one():
            return Erasure(None, 0, {}, ())
        suppressed = read_list(connection, ErasureKey(warehouse.erasure_key))
        owners = sorted(suppressed.owners)
        samples = sum(_forget_samples(connection, owner, suppressed, dry_run=dry_run) for owner in owners)
    with places.landing_lease() as lease:
        rewritten = rewrite(warehouse.store, suppressed, lease.is_ours, dry_run=dry_run)
    records = sum(places.live_state(owner, suppressed, dry_run) for owner in owners)
    counts = {"failed_events.sample": samples, **_of_places(rewritten, records)}
    return Erasure(None, 0, counts, rewritten.unreadable)


def _erase_in_database(run: _Run, landed: Landed, begin: Mapping[str, str | None]) -> _Found:
    owner, started_at = run.request.owner, datetime.now(UTC)
    with writer(run.warehouse) as connection, connection.begin() as transaction:
        read_list(connection, run.key, owner)  # refuses another key before it is mixed in
        conversations = callers.find(connection, run.request, run.key, landed)
        put_on_list(connection, owner, _entries(run, conversations, to_ms(started_at)), run.key, run.erasure_id)
        suppressed = read_list(connection, run.key, owner)
        counts = _clean(connection, run, suppressed)
        scratch.drop(connection, callers.addresses, callers.scope)
        if run.dry_run:
            transaction.rollback()
        else:
            record = {"mode": run.request.mode, "subject": run.subject, "key_id": run.key.id, "status": "running"}
            connection.execute(
                sa.insert(tables.erasures),
                {"erasure_id": run.erasure_id, **owner._asdict(), **begin, **record, "started_at": started_at},
            )
    return _Found(len(conversations), counts, suppressed)


def _entries(run: _Run, conversations: set[str], until_ms: int) -> list[Entry]:
    owner, address, mode = run.request.owner, run.request.address, run.request.mode
    entries = [Entry(CONVERSATION, run.key.conversation(owner, id_), Rule(mode)) for id_ in sorted(conversations)]
    if address is not None:
        entries.append(Entry(ADDRESS, run.key.address(owner, address), Rule(mode, until_ms)))
    return entries


def _clean(connection: sa.Connection, run: _Run, suppressed: Suppressed) -> dict[str, int]:
    owner = run.request.owner
    cleaner = Cleaner(connection, run.key, dry_run=run.dry_run)

    def mode_of(row: sa.Row[Any]) -> Mode:
        """The list may know a stronger one than the request."""
        return suppressed.mode_of(owner, row.conversation_id, (row.ani, row.dnis), 0) or run.request.mode

    counts = {}
    for table in (tables.events, tables.reconciled_events):
        names = ("vendor", "tenant_id", "conversation_id", "ani", "dnis", "payload", "metadata")
        rows = sa.select(table.c.event_id.label("row_id"), *[table.c[name] for name in names])
        counts[str(table.name)] = cleaner.events(table, "event_id", rows.where(*_is_callers(table, owner)), mode_of)
    c = tables.conversations.c
    rows = sa.select(c.conversation_id, c.ani, c.dnis, c.end_reason, c.wrapup_code)
    rows = rows.where(*_is_callers(tables.conversations, owner))
    counts["conversations"] = cleaner.conversations(owner, rows, mode_of)
    counts["failed_events.sample"] = _forget_samples(connection, owner, suppressed, dry_run=run.dry_run)
    return counts


def _is_callers(table: sa.Table, owner: Owner) -> tuple[sa.ColumnElement[bool], ...]:
    c = table.c
    written = sa.select(callers.addresses.c.address)
    of_scope = c.conversation_id.in_(sa.select(callers.scope.c.conversation_id))
    return (
        c.vendor == owner.vendor,
        c.tenant_id == owner.tenant_id,
        sa.or_(of_scope, c.ani.in_(written), c.dnis.in_(written)),
    )


def _forget_samples(connection: sa.Connection, owner: Owner, suppressed: Suppressed, *, dry_run: bool) -> int:
    c = tables.failed_events.c
    query = sa.select(c.sample).distinct()
    query = query.where(c.vendor == owner.vendor, c.tenant_id == owner.tenant_id, c.sample.is_not(None))
    samples = [text for text in connection.execute(query).scalars() if suppressed.is_mentioned(owner, text)]
    if samples and not dry_run:
        scratch.renew(connection, _samples)
        scratch.insert_rows(connection, _samples, [{"sample": text} for text in samples])
        execute(connection, "erasure", "forget_samples", **owner._asdict())
        scratch.drop(connection, _samples)
    return len(samples)


def _of_places(rewritten: Rewritten, records: int) -> dict[str, int]:
    return {
        "landing files": rewritten.files,
        "landing rows": rewritten.rows,
        "landing files that can't be read": len(rewritten.unreadable),
        "crm.state records": records,
    }


def _finish(run: _Run, counts: Mapping[str, int], rewritten: Rewritten) -> None:
    erasures = tables.erasures
    values = {
        "status": "incomplete" if rewritten.unreadable else "finished",
        "counts": orjson.dumps(counts).decode(),
        "finished_at": datetime.now(UTC),
    }
    with writer(run.warehouse) as connection, connection.begin():
        connection.execute(sa.update(erasures).where(erasures.c.erasure_id == run.erasure_id).values(values))
        # Runs of the same request that were killed.
        subject = {"subject": run.subject, "mode": run.request.mode, "erasure_id": run.erasure_id}
        execute(connection, "erasure", "supersede", **run.request.owner._asdict(), **subject)
