"""Columns of promoted fields: added to ``events`` while it lives, filled by every load.

The table ``promoted_fields`` says which there are. A field's value is that of the landing file's typed column, else
what its metadata reads as: producers write both, and files from before the promotion have the metadata alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from schemas.promoted import DOUBLE, LONG, MAX_TEXT, FieldType, PromotedField, name_problem
from streaming.errors import ConfigurationError
from warehouse import tables

_TYPES: Mapping[FieldType, sa.types.TypeEngine[Any]] = {
    "long": sa.BigInteger(),
    "double": sa.Double(),
    "boolean": sa.Boolean(),
    "string": sa.Text(),
}
# Whole rows of these are moved between them, so they have the same columns.
_TABLES = (tables.events, tables.reconciled_events)


def promoted(connection: sa.Connection) -> tuple[PromotedField, ...]:
    """The promoted fields that have a column, by name."""
    c = tables.promoted_fields.c
    rows = connection.execute(sa.select(c.name, c.field, c.type).order_by(c.name))
    return tuple(PromotedField(row.name, row.field, row.type) for row in rows)


def column_names(fields: Sequence[PromotedField]) -> list[str]:
    """Names of the columns of an event but its load, promoted ones last."""
    own = [column.name for column in tables.events.c if column.name != "load_id"]
    return own + [field.name for field in fields]


def insert_from(
    target: sa.Table, source: sa.FromClause, fields: Sequence[PromotedField], load_id: int, *conditions: Any
) -> sa.Insert:
    """Rows of a source with an event's columns into a table of events, those whose id it does not have.

    Args:
        target: ``events`` or ``reconciled_events``.
        source: A table or query.
        fields: The promoted ones.
        load_id: Of the rows that are inserted.
        conditions: Which rows of the source.
    """
    names = column_names(fields)
    into = sa.table(target.name, *map(sa.column, [*names, "load_id"]))
    # Plain columns: a value goes from column to column, and no type of SQLAlchemy's has a say.
    rows = sa.select(*[source.c[name] for name in names], sa.literal(load_id)).where(*conditions)
    known = sa.exists().where(into.c.event_id == source.c.event_id)
    return sa.insert(into).from_select([*names, "load_id"], rows.where(~known))


def columns(fields: Sequence[PromotedField]) -> list[sa.Column[Any]]:
    """The fields' columns."""
    return [sa.Column(field.name, _TYPES[field.type]) for field in fields]


def check_columns(connection: sa.Connection, fields: Sequence[PromotedField]) -> None:
    """Whether fields can have the columns of their names. Changes nothing.

    Raises:
        ConfigurationError: a name can't be a column's, or is taken by another column or field.
    """
    known = {field.name: field for field in promoted(connection)}
    for field in fields:
        if known.get(field.name) != field:
            _check(field, known)


def add_promoted(
    connection: sa.Connection, fields: Sequence[PromotedField], schema_version: int
) -> tuple[PromotedField, ...]:
    """Give fields their columns and fill these for the events that are there. In the caller's transaction; idempotent.

    Args:
        connection: A writer's connection, in a transaction.
        fields: What is promoted; those that have a column already are passed over.
        schema_version: Version of the schema that has them first.

    Returns:
        Those that got a column.

    Raises:
        ConfigurationError: see :func:`check_columns`.
    """
    # Importing Alembic takes longer than a small load, and few runs add a column.
    from warehouse.ddl import add_column  # noqa: PLC0415

    check_columns(connection, fields)
    known = promoted(connection)
    added = tuple(field for field in fields if field not in known)
    for table in _TABLES if added else ():
        there = _columns_of(connection, table)  # a restored database may have some of them
        for field in added:
            if field.name not in there:
                add_column(connection, table.name, sa.Column(field.name, _TYPES[field.type]))
        _fill(connection, table, added)
    for field in added:
        row = {"name": field.name, "vendor": field.key.partition(".")[0], "field": field.key, "type": field.type}
        more = {"schema_version": schema_version, "promoted_at": datetime.now(UTC)}
        connection.execute(sa.insert(tables.promoted_fields), {**row, **more})
    return added


def as_type(text: sa.ColumnElement[Any], type_: FieldType, dialect: str) -> sa.ColumnElement[Any]:
    """A text under a field's type, NULL if it does not fit: :func:`schemas.promoted.cast` in SQL."""
    if type_ == "string":
        return sa.case((sa.func.length(text) <= MAX_TEXT, text))
    if type_ == "boolean":
        return sa.case((text == "true", sa.true()), (text == "false", sa.false()))
    pattern = LONG if type_ == "long" else DOUBLE
    fits = sa.func.regexp_full_match(text, pattern) if dialect == "duckdb" else text.op("~")(f"^({pattern})$")
    return sa.case((fits, sa.cast(text, _TYPES[type_])))


def pointer(key: str) -> str:
    """The JSON Pointer (RFC 6901) of a metadata key, which may hold whatever a path would take for its own."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _check(field: PromotedField, known: Mapping[str, PromotedField]) -> None:
    problem = name_problem(field.name, field.key)
    if not problem and field.name in tables.events.c:
        problem = "events has a column of that name"
    if not problem and (other := known.get(field.name)):
        problem = f"that column is {other.key} as {other.type} already, and never changes"
    if problem:
        msg = f"{field.key} can't be promoted as {field.name}: {problem}; give it another name"
        raise ConfigurationError(msg)


def _columns_of(connection: sa.Connection, table: sa.Table) -> set[str]:
    return {column["name"] for column in sa.inspect(connection).get_columns(table.name)}


def _fill(connection: sa.Connection, table: sa.Table, fields: Sequence[PromotedField]) -> None:
    """From the metadata, in one pass over the rows: each row that has any of the fields is written anew."""
    dialect = connection.dialect.name
    metadata = sa.column("metadata", sa.Text)
    target = sa.table(table.name, metadata, *[sa.column(field.name, _TYPES[field.type]) for field in fields])

    def value(field: PromotedField) -> sa.ColumnElement[Any]:
        text: sa.ColumnElement[Any]
        if dialect == "duckdb":
            text = sa.func.json_extract_string(metadata, pointer(field.key))
        else:
            text = sa.cast(_without_nul(metadata), sa.JSON).op("->>")(field.key)
        return as_type(sa.type_coerce(text, sa.Text), field.type, dialect)

    connection.execute(
        sa.update(target)
        .values({field.name: value(field) for field in fields})
        .where(sa.or_(*[sa.func.strpos(metadata, _mark(field.key)) > 0 for field in fields]))
    )


def _mark(key: str) -> str:
    """The longest part of a key that stands in JSON as it is: a row without it has not got the key."""
    return max(re.split(r'["\\\x00-\x1f]', key), key=len)


def _without_nul(text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """JSON text without its escaped NULs, an odd backslash and u0000, which PostgreSQL can't make text of."""
    cleaned = sa.func.regexp_replace(text, r"(?<!\\)((?:\\\\)*)\\u0000", r"\1", "g")
    return sa.case((sa.func.strpos(text, r"\u0000") > 0, cleaned), else_=text)
