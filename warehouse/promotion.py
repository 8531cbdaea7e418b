"""Promote metadata fields: next version of the schema, its registration, its file, the warehouse's columns.

Under the warehouse's write lock, which ends with the process, so that two runs make one version. In this order:

1. the next version is checked against every older one, the columns' names against the tables; nothing is changed yet;
2. registration under FULL: from now on producers use it;
3. the file in the project's folder;
4. the columns, filled from the metadata.

Whatever is cut off after 2 is made up for by :func:`catch_up`, with which every run begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import NamedTuple

import orjson
import sqlalchemy as sa
import structlog

from schemas.canonical import schema_versions, write_version
from schemas.evolution import Proposal, Seen, Thresholds, Totals, Usage, propose
from schemas.promoted import PromotedField, promoted_fields, with_promoted
from schemas.registry import Registry
from warehouse import tables
from warehouse.engine import Warehouse, writer
from warehouse.promoted import add_promoted, check_columns

log = structlog.get_logger()


class Promotion(NamedTuple):
    """What a promotion did.

    Attributes:
        fields: Fields that got a column.
        version: Registered version that has them; 0 if nothing is registered.
        file: What became of the version's file, for people.
    """

    fields: tuple[PromotedField, ...]
    version: int
    file: str


def catch_up(warehouse: Warehouse, registry: Registry) -> Promotion:
    """Give every promoted field of the newest registered schema its file and columns.

    Raises:
        ConfigurationError: the warehouse can't have a column of a field's name.
        ServiceUnavailableError: the registry can't be reached; nothing was changed.
        WarehouseBusyError: another load kept the lock.
    """
    with writer(warehouse) as connection:
        text, _ = registry.current()
        return _settle(connection, registry, text)


def proposal(
    warehouse: Warehouse,
    registry: Registry,
    *,
    as_of: date,
    thresholds: Thresholds,
    names: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
) -> Proposal:
    """What is to be promoted by the use that is counted. Changes nothing.

    Raises:
        ServiceUnavailableError: the registry can't be reached.
        WarehouseBusyError: another load kept the lock.
    """
    text, _ = registry.current()
    # Not the readers' copy, which may be older than the count.
    with writer(warehouse) as connection:
        keys = [field.key for field in promoted_fields(text)]
        seen, rows, totals = _evidence(connection, as_of - timedelta(days=thresholds.window_days), as_of, keys)
    fields = [field["name"] for field in orjson.loads(text)["fields"]]
    return propose(
        seen,
        rows,
        totals,
        promoted=promoted_fields(text),
        taken={*fields, *(column.name for column in tables.events.c)},
        as_of=as_of,
        thresholds=thresholds,
        names=names,
        exclude=exclude,
    )


def _evidence(
    connection: sa.Connection, begin: date, end: date, promoted: Sequence[str]
) -> tuple[list[Seen], list[Usage], Totals]:
    """When each field of the window, or promoted, was seen, and the window's rows: of older ones nothing is read."""
    c, days = tables.metadata_field_usage.c, tables.event_type_days.c
    seen = sa.select(c.vendor, c.field, sa.func.min(c.day), sa.func.max(c.day)).where(c.day < end)
    is_wanted = sa.or_(sa.func.max(c.day) >= begin, c.field.in_(promoted))
    usage = sa.select(*[c[name] for name in Usage._fields]).where(c.day >= begin, c.day < end)
    totals = sa.select(days.vendor, days.event_type, days.day, days.events).where(days.day >= begin, days.day < end)
    return (
        [Seen(*row) for row in connection.execute(seen.group_by(c.vendor, c.field).having(is_wanted))],
        [Usage(*row) for row in connection.execute(usage)],
        {(row.vendor, row.event_type, row.day): row.events for row in connection.execute(totals)},
    )


def promote(warehouse: Warehouse, registry: Registry, fields: Sequence[PromotedField]) -> Promotion:
    """Promote fields; those that are promoted already are passed over.

    Raises:
        IncompatibleSchemaError: the next version is refused; nothing was changed.
        ConfigurationError: the warehouse can't have a column of a field's name; nothing was changed.
        ServiceUnavailableError: the registry can't be reached.
        WarehouseBusyError: another load kept the lock.
    """
    with writer(warehouse) as connection:
        text, _ = registry.current()
        new = [field for field in fields if field not in promoted_fields(text)]
        if new:
            check_columns(connection, new)
            connection.commit()
            text = with_promoted(text, new)
            registry.check(text)
            registry.register(text)
        return _settle(connection, registry, text)


def _settle(connection: sa.Connection, registry: Registry, text: str) -> Promotion:
    """File and columns of a registered version; idempotent."""
    version = max((number for number, other in registry.versions().items() if _same(other, text)), default=0)
    file = _write(registry, text)
    with connection.begin():
        added = add_promoted(connection, promoted_fields(text), version)
    for field in added:
        log.info("field promoted", key=field.key, name=field.name, type=field.type, version=version)
    return Promotion(added, version, file)


def _write(registry: Registry, text: str) -> str:
    """The version into the project's folder, unless one there has its fields; a read-only folder stops nothing."""
    own = schema_versions(registry.folder)
    fields = set(promoted_fields(text))
    for number, other in own.items():
        if fields <= set(promoted_fields(other)):
            return f"v{number} of {registry.folder} has them"
    try:
        file = write_version(registry.folder, max(own) + 1, text)
    except OSError as error:
        log.error("the schema's new version is registered, but its file can't be written", error=str(error))
        return f"not written ({error}); add what the registry has to the project by hand"
    return f"written to {file}; commit it to the project"


def _same(one: str, other: str) -> bool:
    """The registry may give a text back in another layout; it may hold what is no JSON."""
    try:
        return bool(orjson.loads(one) == orjson.loads(other))
    except orjson.JSONDecodeError:
        return False
