"""Expiry of the landing zone: files go once the warehouse has loaded them, never before."""

from __future__ import annotations

from datetime import datetime, timedelta

from streaming.settings import Settings
from streaming.sink.expiry import Due, due_files, expire_files, first_day, rows_of
from streaming.sink.landing import RAW
from streaming.sink.landing_lease import landing_lease
from streaming.sink.manifest import COMPACTED
from streaming.sink.store import Store
from warehouse.engine import Warehouse, writer
from warehouse.landed import forget_files, loaded_files
from warehouse.retention import Expiry, Record

_PATIENCE_S = 600.0
_NAMED = 5  # in a note


def expire_landing(
    settings: Settings, warehouse: Warehouse, before: datetime, *, run_id: str, dry_run: bool = False
) -> Expiry:
    """Take files out of the landing zone whose events are dated before an instant. Again changes nothing.

    A file that is not loaded stays, and so does one that a load has set aside; the note tells both.

    Args:
        settings: the platform's.
        warehouse: which files are loaded, migrated.
        before: midnight, UTC.
        run_id: the caller's id.
        dry_run: only count.

    Raises:
        ServiceUnavailableError: a compaction is running, or warehouse, state database or store do not answer.
        OSError: the disk does not answer.
    """
    store = warehouse.store
    with writer(warehouse) as connection:
        known = loaded_files(connection)
    if dry_run:
        return _expiry(due_files(store, before, known.__contains__), before, known)
    record = Record(run_id, "landing", before)
    with writer(warehouse) as connection:
        record.begin(connection)
    grace = timedelta(hours=settings.sink.compact_grace_hours)
    with landing_lease(settings, _PATIENCE_S) as lease:
        due = expire_files(store, before, known.__contains__, grace, lease)
    expiry = _expiry(due, before, known)
    with writer(warehouse) as connection:
        with connection.begin():
            record.add(connection, rows=expiry.rows, files=expiry.files, size=expiry.bytes)
        record.end(connection, "finished", expiry.note)
        with connection.begin():
            forget_files(connection, _gone(store, known))
    return expiry


def _expiry(due: Due, before: datetime, known: dict[str, int]) -> Expiry:
    notes = [
        f"{len(names)} files {why}: {', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''}"
        for names, why in ((due.waiting, "are not loaded yet and stay"), (due.quarantined, "in quarantine stay"))
        if names
    ]
    return Expiry(
        dataset="landing",
        before=before,
        rows=rows_of(due, known),
        files=due.files,
        bytes=due.bytes,
        first_day=first_day(due),
        note="; ".join(notes),
    )


def _gone(store: Store, known: dict[str, int]) -> list[str]:
    """Files of the list that have been deleted. The list is older than what is looked at here, and no name returns."""
    there = {entry.name for folder in (RAW, COMPACTED) for entry in store.entries(folder)}
    return sorted(known.keys() - there)
