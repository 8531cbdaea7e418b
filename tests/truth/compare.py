"""Cell-by-cell comparison of interval tables with a difference that a person can read."""

from __future__ import annotations

import pandas as pd

Key = tuple[object, ...]

SHOWN = 20
_KEYS = ("vendor", "tenant_id", "queue_id", "agent_id", "media_type", "interval_start")


def assert_equal_tables(expected: pd.DataFrame, actual: pd.DataFrame) -> None:
    """Assert that both tables have the same columns and, in whatever order, the same cells and values.

    Integers may come in any type that holds them exactly (DuckDB sums arrive as doubles, PostgreSQL's as
    ``Decimal``) and instants in any time zone; one without is refused, since nothing says that it is UTC.

    Args:
        expected: the truth; its columns decide whether queue or agent cells are compared.
        actual: what the warehouse holds.

    Raises:
        AssertionError: the tables differ. The message counts missing, extra, repeated and different cells and
            shows at most ``SHOWN`` of them, differing columns with both values.
    """
    missing = [name for name in expected.columns if name not in actual.columns]
    extra = [name for name in actual.columns if name not in expected.columns]
    if missing or extra:
        msg = f"columns differ: missing {missing}, extra {extra}; select {', '.join(expected.columns)}"
        raise AssertionError(msg)
    keys = [name for name in expected.columns if name in _KEYS]
    wanted, repeated_wanted = _by_key(expected, keys, "expected")
    found, repeated = _by_key(actual[expected.columns.tolist()], keys, "actual")
    if repeated_wanted:
        msg = f"expected repeats {len(repeated_wanted)} cells, the first {_name(keys, repeated_wanted[0])}"
        raise AssertionError(msg)
    values = [name for name in expected.columns if name not in keys]
    absent = [key for key in wanted if key not in found]
    surplus = [key for key in found if key not in wanted]
    both = [key for key in wanted if key in found]
    unequal = {key: text for key in both if (text := _unequal(wanted[key], found[key], values))}
    lines = [
        *(f"repeated  {_name(keys, key)}" for key in repeated),
        *(f"missing   {_name(keys, key)}: {_row(wanted[key], values)}" for key in absent),
        *(f"extra     {_name(keys, key)}: {_row(found[key], values)}" for key in surplus),
        *(f"different {_name(keys, key)}: {text}" for key, text in unequal.items()),
    ]
    if lines:
        rest = [f"... and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
        head = (
            f"{len(wanted)} cells expected, {len(actual)} found: {len(absent)} missing, "
            f"{len(surplus)} extra, {len(repeated)} repeated, {len(unequal)} different"
        )
        raise AssertionError("\n".join([head, *lines[:SHOWN], *rest]))


def _by_key(table: pd.DataFrame, keys: list[str], which: str) -> tuple[dict[Key, Key], list[Key]]:
    """The table's rows (values in column order) by key, and the keys that come more than once."""
    table = table.copy()
    if len(table):
        start = table["interval_start"]
        if not isinstance(start.dtype, pd.DatetimeTZDtype):
            msg = f"{which}: interval_start is {start.dtype}, not an instant: make it UTC where it is read"
            raise AssertionError(msg)
        table["interval_start"] = start.dt.tz_convert("UTC").dt.as_unit("ns")
    columns = [name for name in table.columns if name not in keys]
    values = table[columns].astype("object")
    rows: dict[Key, Key] = {}
    repeated: list[Key] = []
    key_rows = table[keys].itertuples(index=False, name=None)
    value_rows = values.where(values.notna(), None).itertuples(index=False, name=None)
    for key, row in zip(key_rows, value_rows, strict=True):
        if key in rows:
            repeated.append(key)
        rows[key] = row
    return rows, repeated


def _unequal(wanted: Key, found: Key, values: list[str]) -> str:
    """``column expected -> actual`` of the columns that differ, empty if none does."""
    return ", ".join(
        f"{name} {want} -> {got}"
        for name, want, got in zip(values, wanted, found, strict=True)
        if got is None or want != got
    )


def _name(keys: list[str], key: Key) -> str:
    return " ".join(
        part.isoformat() if isinstance(part, pd.Timestamp) else str(part)
        for name, part in zip(keys, key, strict=True)
        if name != "media_type" or part != "VOICE"
    )


def _row(row: Key, values: list[str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(values, row, strict=True) if value != 0)
