"""Hard rules, checked by SQL inside a load's transaction: a breach undoes the load and keeps the previous data."""

from __future__ import annotations

import sqlalchemy as sa

from warehouse.errors import QualityError
from warehouse.statements import statements

# PostgreSQL's unique index refuses repeats as they come: to look again would take a twentieth of a load.
_DUCKDB_ONLY = {"events.repeated_id", "events.id_without_key"}

_REMEDIES = {
    "wfm_intervals.one_grid": "after a change of warehouse.interval_minutes run load-wfm-intervals once over all days "
    "with events: start before the first of them, end after the last cell",
}


def check(connection: sa.Connection, group: str, **values: object) -> None:
    """Run the rules ``<group>.<rule>`` of ``sql/rules.sql``; each counts what breaks it.

    Raises:
        QualityError: the first rule that is broken, with the count.
    """
    for name, statement in statements("rules").items():
        if name.partition(".")[0] != group or (name in _DUCKDB_ONLY and connection.dialect.name == "postgresql"):
            continue
        bound = {key: values[key] for key in statement._bindparams}
        broken = connection.execute(statement, bound).scalar_one()
        if broken:
            remedy = _REMEDIES.get(name, "see warehouse/sql/rules.sql for the rule")
            msg = f"rule {name}: {broken} breaches; the load was undone, {remedy}"
            raise QualityError(msg, rule=name)
