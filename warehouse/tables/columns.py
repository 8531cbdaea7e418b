"""What the definitions of tables are made of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, DateTime, Index, MetaData, Text

metadata = MetaData()


def text(name: str, doc: str, *, nullable: bool = True, source: str = "") -> Column[str]:
    """Text, nullable unless said otherwise."""
    return Column(name, Text, nullable=nullable, doc=doc, info=described(source=source))


def key(name: str, doc: str, *, source: str = "") -> Column[str]:
    """Text that every row has."""
    return text(name, doc, nullable=False, source=source)


def instant(name: str, doc: str, *, nullable: bool = True, source: str = "") -> Column[Any]:
    """An instant, UTC."""
    return Column(name, DateTime(timezone=True), nullable=nullable, doc=doc, info=described("UTC", source=source))


def ms(name: str, doc: str, *, nullable: bool = False, formula: str = "", source: str = "") -> Column[int]:
    """A duration, or an instant since 1970, in milliseconds."""
    return Column(name, BigInteger, nullable=nullable, doc=doc, info=described("ms", formula, source))


def count(name: str, doc: str, *, formula: str = "", source: str = "") -> Column[int]:
    """A number of things."""
    return Column(name, BigInteger, nullable=False, doc=doc, info=described("1", formula, source))


def described(unit: str = "", formula: str = "", source: str = "") -> dict[str, str]:
    """A column's ``info`` for the data dictionary: unit, and of a metric its formula and where that is from (URL)."""
    told = {"unit": unit, "formula": formula, "source": source}
    return {name: value for name, value in told.items() if value}


def postgresql_key(name: str, *columns: str) -> Any:
    """A unique index; on PostgreSQL only."""
    return Index(name, *columns, unique=True).ddl_if(dialect="postgresql")


def postgresql_index(name: str, *columns: str) -> Any:
    """An index; on PostgreSQL only."""
    return Index(name, *columns).ddl_if(dialect="postgresql")


VENDOR = "Vendor: genesys, cxone"
TENANT = "Tenant within the vendor"
LOAD = "Load that wrote the row (load_runs)"
