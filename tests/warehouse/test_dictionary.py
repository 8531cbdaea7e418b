from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from typer.testing import CliRunner

from streaming.cli import app
from warehouse.engine import Warehouse, writer
from warehouse.schema import VERSION_TABLE
from warehouse.tables import metadata
from warehouse.tables.views import view_metadata

METRICS = ("queue_interval", "agent_interval", "daily_")
SUMS = {"1", "ms"}
DEFINED = {**metadata.tables, **view_metadata.tables}
_COLUMNS = sa.text(
    "SELECT table_name, column_name, data_type FROM information_schema.columns "
    "WHERE table_schema IN ('main', 'public') ORDER BY table_name, ordinal_position"
)
_KINDS = {"varchar": "text", "double": "double precision", "timestamp with time zone": "timestamptz"}


def test_the_document_is_what_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["dictionary"])
    assert printed.exit_code == 0
    written = (Path(__file__).parents[2] / "docs" / "data-dictionary.md").read_text(encoding="utf-8")
    assert written == printed.stdout, "run `ccaas dictionary > docs/data-dictionary.md`"


def test_every_column_of_the_database_has_an_entry_with_its_type(warehouse: Warehouse) -> None:
    """And no entry is of a column that does not exist; in the same order."""
    with writer(warehouse) as connection:
        found: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind in connection.execute(_COLUMNS):
            found.setdefault(table, []).append((column, _KINDS.get(kind.lower(), kind.lower())))
    del found[VERSION_TABLE]
    assert _entries(CliRunner().invoke(app, ["dictionary"]).stdout) == found


def _entries(document: str) -> dict[str, list[tuple[str, str]]]:
    """Columns and types by table, read from the Markdown."""
    entries: dict[str, list[tuple[str, str]]] = {}
    for line in document.splitlines():
        if line.startswith("## "):
            rows = entries.setdefault(line.removeprefix("## "), [])
        elif line.startswith("| `"):
            name, kind = line.split(" | ")[:2]
            rows.append((name.strip("| `"), kind.removesuffix(", null")))
    return entries


def test_every_column_says_what_it_holds_and_every_metric_how_it_is_measured() -> None:
    for table in DEFINED.values():
        assert table.info["row"], table.name
        for column in table.columns:
            where = f"{table.name}.{column.name}"
            assert column.doc, where
            if column.name.endswith("_ms"):
                assert column.info["unit"] == "ms", where
            if isinstance(column.type, sa.Double) or (
                table.name.startswith(METRICS) and column.info.get("unit") in SUMS
            ):
                assert column.info["formula"], where
                assert column.info.get("source") or column.name == "conversations", where  # a row of ours
            assert column.info.get("source", "https://").startswith("https://"), where
