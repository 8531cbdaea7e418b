"""Interval files for WFM tools, by tenant and UTC day.

The cells come from the readers' copy, the place of a file from its tenant and day, and its bytes from the day's cells.
So an export can be repeated, interrupted or run twice at once. A run by arrival writes the days that became whole since
the last one, and those of which the ledger of loads says that later events may have changed them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
import structlog
from filelock import FileLock, Timeout

from streaming.errors import CcaasError, ConfigurationError
from streaming.instants import to_ms
from warehouse.engine import Warehouse, reader
from warehouse.errors import ExportError, first_of
from warehouse.export_files import Format, replaced, write_sums, writer_of
from warehouse.export_rows import AGENTS, QUEUES, agent_tables, queue_tables
from warehouse.export_state import Position, last_position, position, remember_position
from warehouse.statements import statements
from warehouse.windows import DAY_MINUTES, Window, floor, midnight

log = structlog.get_logger()

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # as the settings allow; anything else is no folder's name either
_DAY = timedelta(days=1)
_NAMED = 5  # failures in an error's message; the rest is counted


class TenantDay(NamedTuple):
    """What one set of files is of."""

    vendor: str
    tenant_id: str
    day: date

    @property
    def window(self) -> Window:
        """The day, UTC."""
        start = midnight(self.day)
        return Window(start, start + _DAY)

    @property
    def folder(self) -> Path:
        """Its folder below the export's, as engines read partitions."""
        return Path(f"vendor={self.vendor}", f"tenant_id={self.tenant_id}", f"date={self.day}")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked for.

    Attributes:
        folder: where to.
        formats: which files.
        tenant_id: only this tenant's; None: all.
    """

    folder: Path
    formats: Collection[Format]
    tenant_id: str | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A day's files.

    Attributes:
        of: tenant and day.
        queue_rows: rows of ``queue-intervals``.
        agent_rows: rows of ``agent-intervals``.
        changed: names of the files that were replaced or are new.
    """

    of: TenantDay
    queue_rows: int
    agent_rows: int
    changed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What an export did.

    Attributes:
        days: what was looked at, by vendor, tenant and day; what has no cells any more is left out, its files stay.
        through: up to when cells are exported by arrival; None if no load by arrival has built any.
    """

    days: Sequence[Exported] = ()
    through: datetime | None = None


def export_new(warehouse: Warehouse, target: Target, *, due: datetime, remember: bool = True) -> ExportResult:
    """Export the days that are whole since the last such run, or were touched by later events and loads by window.

    The first run begins with the day before ``due``.

    Args:
        warehouse: the warehouse; on DuckDB its readers' copy.
        target: where to, and what.
        due: when the run was due, aware.
        remember: whether the next run goes on from this one; not so if it writes less than all that is configured.

    Raises:
        ExportError: files can't be written, or another export kept the folder for ``lock_seconds``.
        ConfigurationError: a day has cells of two lengths. Of both it names the tenants' days; the others are exported,
            and the next run tries these again.
        NoReadCopyError: no load has published anything yet.
    """
    with _locked(warehouse, target.folder), reader(warehouse) as connection:
        # The position first: cells that change from now on are of the next run, which finds them by it.
        now = position(connection)
        last = last_position(target.folder, now)
        if now.known_until is None:
            return ExportResult()
        days = _days_since(connection, warehouse, last, now, due)
        whole = [day for day in days if day.window.end <= now.known_until]
        exported, failed = _export(connection, target, dict.fromkeys(whole, now.known_until))
        if remember:
            again = [(of.vendor, of.tenant_id, str(of.day)) for of in failed]
            remember_position(target.folder, replace(now, failed=again))
        _raise(failed, len(whole))
        return ExportResult(exported, now.known_until)


def export_days(warehouse: Warehouse, target: Target, first: date, end: date, *, due: datetime) -> ExportResult:
    """Export the days from ``first`` to before ``end``, whatever was exported; of a day that is not over, what is so.

    Of a day behind the horizon of the loads by arrival it is what a load by window has built, up to when it ran.

    Raises:
        WindowError: the first day is not before the end.
        ExportError: see :func:`export_new`.
        ConfigurationError: see :func:`export_new`.
        NoReadCopyError: see :func:`export_new`.
    """
    window = Window(midnight(first), midnight(end))
    with _locked(warehouse, target.folder), reader(warehouse) as connection:
        horizon = position(connection).known_until
        days = sorted(_days(connection, "days_between", start=window.start, end=window.end))
        known = {of: _known_until(connection, of, horizon, due) for of in days}
        exported, failed = _export(connection, target, known)
        _raise(failed, len(days))
        return ExportResult(exported, horizon)


def _known_until(connection: sa.Connection, of: TenantDay, horizon: datetime | None, due: datetime) -> datetime:
    """Up to when a day's cells are built: by arrival, or by a window that begins no later than what is built so far."""
    if horizon is None:
        return due
    known = horizon
    if known < of.window.end:
        start, end = of.window.start, of.window.end
        for begin, built_until in connection.execute(statements("export")["windows_of"], {"start": start, "end": end}):
            if begin <= max(start, known):
                known = max(known, min(built_until, due))
    return known


def _export(
    connection: sa.Connection, target: Target, days: Mapping[TenantDay, datetime]
) -> tuple[list[Exported], dict[TenantDay, CcaasError]]:
    """Export days, each up to when it is known; what is wrong with one of them does not keep the others waiting."""
    odd = {day for day in days if not (_NAME.fullmatch(day.vendor) and _NAME.fullmatch(day.tenant_id))}
    if odd:
        log.error("not exported: a vendor's or tenant's name that no setting allows", days=len(odd))
    found: list[Exported] = []
    failed: dict[TenantDay, CcaasError] = {}
    for day, known_until in days.items():
        if day not in odd and target.tenant_id in {None, day.tenant_id}:
            try:
                exported = _export_day(connection, target, day, known_until)
            except (ExportError, ConfigurationError) as error:
                failed[day] = error
                continue
            if exported:
                found.append(exported)
    return found, failed


def _raise(failed: Mapping[TenantDay, CcaasError], days: int) -> None:
    """Name what failed; as an ExportError, which is worth another try, if one is among it."""
    if not failed:
        return
    named = [f"{of.vendor}/{of.tenant_id} {of.day}: {error}" for of, error in failed.items()]
    msg = f"{len(failed)} of {days} tenants' days not exported: {first_of(named, _NAMED)}"
    again = any(isinstance(error, ExportError) for error in failed.values())
    raise (ExportError if again else ConfigurationError)(msg)


def _export_day(connection: sa.Connection, target: Target, of: TenantDay, known_until: datetime) -> Exported | None:
    values: dict[str, Any] = {"vendor": of.vendor, "tenant_id": of.tenant_id}
    values |= {"start": of.window.start, "end": of.window.end}
    cells, minutes, longest = connection.execute(statements("export")["grid"], values).one()
    if not cells:
        return None
    if minutes != longest:
        msg = (
            f"cells of {minutes} and of {longest} min on {of.day}: "
            "run load-wfm-intervals over all days with events after a change of warehouse.interval_minutes"
        )
        raise ConfigurationError(msg)
    end = min(of.window.end, floor(known_until, minutes))
    if end <= of.window.start:
        return None
    values |= {"end": end, "start_ms": of.window.start_ms, "end_ms": to_ms(end), "step_ms": minutes * 60_000}
    changed: list[Path] = []
    place = target.folder / of.folder
    rows = {
        name: _write(place / name, schema, tables(connection, values, minutes), target.formats, changed)
        for name, schema, tables in (
            ("queue-intervals", QUEUES, queue_tables),
            ("agent-intervals", AGENTS, agent_tables),
        )
    }
    write_sums(place, changed)
    names = tuple(sorted(path.name for path in changed))
    return Exported(of, rows["queue-intervals"], rows["agent-intervals"], names)


def _write(
    path: Path, schema: Any, tables: Generator[Any, None, None], formats: Collection[Format], changed: list[Path]
) -> int:
    """Write the same rows in every format; gives their number."""
    rows = 0
    with ExitStack() as stack:
        files = {
            format_: stack.enter_context(replaced(path.with_suffix(f".{format_}"), changed))
            for format_ in sorted(formats)
        }
        writers = [stack.enter_context(closing(writer_of(format_, file, schema))) for format_, file in files.items()]
        for table in stack.enter_context(closing(tables)):
            rows += len(table)
            for writer in writers:
                writer.write(table)
    return rows


def _days_since(
    connection: sa.Connection, warehouse: Warehouse, last: Position | None, now: Position, due: datetime
) -> list[TenantDay]:
    assert now.known_until  # noqa: S101 (the caller has asked)
    begin = (last.known_until if last else None) or due - _DAY
    start = floor(begin, DAY_MINUTES)
    found = _days(connection, "days_between", start=start, end=max(now.known_until, start))
    if last:
        found |= {TenantDay(vendor, tenant_id, date.fromisoformat(day)) for vendor, tenant_id, day in last.failed}
        loads = {"load_id": last.load_id, "newest_load_id": now.load_id}
        for bounds in connection.execute(statements("export")["windows_since"], loads).all():
            whole_days = Window(*bounds).widened(DAY_MINUTES)  # cells that are no more were of these days, too
            found |= _days(connection, "days_between", start=whole_days.start, end=whole_days.end)
        found |= _days(
            connection,
            "days_touched",
            through=last.through,
            newest_through=now.through,
            step_ms=warehouse.step_ms,
            longest_ms=warehouse.longest_status_ms,
        )
    return sorted(found)


def _days(connection: sa.Connection, statement: str, **values: object) -> set[TenantDay]:
    return {TenantDay(*row) for row in connection.execute(statements("export")[statement], values)}


@contextmanager
def _locked(warehouse: Warehouse, folder: Path) -> Iterator[None]:
    """One export of a folder at a time: an older state of the cells must not replace a newer one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=warehouse.lock_seconds)
        lock.acquire()
    except Timeout:
        msg = f"{folder} was held for {warehouse.lock_seconds:g} s: another export runs; try again when it has ended"
        raise ExportError(msg) from None
    except OSError as error:
        msg = f"export.folder {folder} can't be used: {error.strerror or error}; mend its rights or name another"
        raise ExportError(msg) from error
    try:
        yield
    finally:
        lock.release()
