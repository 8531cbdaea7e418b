"""How far the runs of the interval files by arrival are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
import structlog

from warehouse.export_files import replaced
from warehouse.statements import statements

log = structlog.get_logger()

STATE = "export-state.json"
"""How far the runs by arrival are; beside the files, since it is true of them only."""


@dataclass(frozen=True, slots=True)
class Position:
    """A state of the ledger: the newest load of intervals, the newest load of events in them, the horizon.

    And of the export: vendor, tenant and day of what could not be exported, for the next run to try again.
    """

    load_id: int
    through: int
    horizon: str | None
    failed: Sequence[Sequence[str]] = ()

    @property
    def known_until(self) -> datetime | None:
        """Up to when cells are built by arrival."""
        return datetime.fromisoformat(self.horizon) if self.horizon else None


def position(connection: sa.Connection) -> Position:
    """The ledger's state now; what is read afterwards is at least as new."""
    load_id, through, horizon = connection.execute(statements("export")["position"]).one()
    connection.commit()  # the cells are read anew
    return Position(int(load_id), int(through), horizon.astimezone(UTC).isoformat() if horizon else None)


def last_position(folder: Path, now: Position) -> Position | None:
    """Where the last run by arrival was; None before the first, and after the warehouse has been made anew."""
    path = folder / STATE
    try:
        last = Position(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        log.warning("the export begins anew with yesterday: its state can't be read", file=str(path))
        return None
    if last.load_id > now.load_id or last.through > now.through:
        log.warning("the export begins anew with yesterday: its state is of another warehouse", file=str(path))
        return None
    return last


def remember_position(folder: Path, position: Position) -> None:
    """Let the next run go on from here.

    Raises:
        ExportError: the file can't be written; the next run goes on from where the last one did.
    """
    with replaced(folder / STATE, []) as file:
        file.write(json.dumps(asdict(position)).encode())
