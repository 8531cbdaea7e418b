"""Promotion on both engines and a registry of the test's own: cut off anywhere, run at once, refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from devstack.stack import LocalStack
from schemas.canonical import AVRO_DIR, latest_schema, schema_versions
from schemas.evolution import Thresholds, Verdict
from schemas.promoted import PromotedField, promoted_fields, with_promoted
from schemas.registry import IncompatibleSchemaError, Registry
from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.settings import RegistrySettings
from tests.warehouse.month import AS_OF, MOOD, SCORE, land_month, register_and_drop_score, with_field
from warehouse.engine import Warehouse, writer
from warehouse.field_usage import count_field_usage
from warehouse.load_events import load_events
from warehouse.promoted import promoted
from warehouse.promotion import catch_up, promote, proposal


@pytest.fixture
def registry(own_registry: LocalStack, tmp_path: Path) -> Iterator[Registry]:
    shutil.copytree(AVRO_DIR, tmp_path / "avro")
    made = Registry(RegistrySettings(url=own_registry.registry_url, schema_dir=tmp_path / "avro"))
    yield made
    made.close()


def fill(warehouse: Warehouse) -> None:
    """A month of events, counted."""
    land_month(warehouse.landing_dir)
    load_events(warehouse, run_id="r")
    count_field_usage(warehouse, run_id="r")


def proposed(warehouse: Warehouse, registry: Registry, **more: Any) -> tuple[PromotedField, ...]:
    found = proposal(warehouse, registry, as_of=AS_OF, thresholds=Thresholds(), **more)
    return found.candidates


def columns(warehouse: Warehouse) -> tuple[PromotedField, ...]:
    with writer(warehouse) as connection:
        return promoted(connection)


def scores(warehouse: Warehouse) -> list[int | None]:
    column: sa.ColumnClause[Any] = sa.column(SCORE.name)
    with writer(warehouse) as connection:
        return list(connection.execute(sa.select(column).select_from(sa.table("events"))).scalars())


def test_a_month_of_use_becomes_a_version_a_file_and_a_column(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    assert proposed(warehouse, registry) == (MOOD, SCORE)
    done = promote(warehouse, registry, [SCORE])
    assert (done.fields, done.version) == ((SCORE,), 2)
    text, _ = registry.current()
    assert promoted_fields(text) == (SCORE,)
    assert json.loads(schema_versions(registry.folder)[2]) == json.loads(text)
    assert scores(warehouse) == [7] * 30
    assert proposed(warehouse, registry) == (MOOD,)
    assert promote(warehouse, registry, [SCORE, MOOD]).version == 3
    assert promote(warehouse, registry, [SCORE, MOOD]).fields == ()
    assert schema_versions(registry.folder).keys() == {1, 2, 3}


def test_a_refused_version_changes_nothing(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    register_and_drop_score(registry)
    before = registry.versions()
    assert SCORE in proposed(warehouse, registry)
    with pytest.raises(IncompatibleSchemaError, match=r"version 2 registered: .*genesys_score"):
        promote(warehouse, registry, [SCORE, MOOD])
    assert registry.versions() == before
    assert schema_versions(registry.folder).keys() == {1}
    assert columns(warehouse) == ()


def test_a_registration_that_comes_too_late_changes_nothing(
    warehouse: Warehouse, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(warehouse)
    registry.current()
    check = Registry.check

    def overtaken(self: Registry, schema: str) -> None:
        check(self, schema)
        self.register(with_field(latest_schema(), SCORE.name, "string"))

    monkeypatch.setattr(Registry, "check", overtaken)
    with pytest.raises(IncompatibleSchemaError, match="not FULL compatible"):
        promote(warehouse, registry, [SCORE])
    assert registry.versions().keys() == {1, 2}
    assert schema_versions(registry.folder).keys() == {1}
    assert columns(warehouse) == ()


def test_a_field_of_the_schema_that_is_nobodys_mirror_keeps_its_name(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    registry.current()
    registry.register(with_field(latest_schema(), SCORE.name, "string"))
    found = proposal(warehouse, registry, as_of=AS_OF, thresholds=Thresholds())
    (evidence,) = [item for item in found.evidence if item.key == SCORE.key]
    assert evidence.verdict is Verdict.REFUSED
    assert "is a field or column of every event" in evidence.reason


def test_a_name_that_the_warehouse_can_not_have_registers_nothing(warehouse: Warehouse, registry: Registry) -> None:
    registry.current()
    before = registry.versions()
    for name in ("queue_id", "Big", "g" * 64):
        with pytest.raises(ConfigurationError):
            promote(warehouse, registry, [MOOD, SCORE._replace(name=name)])
    assert registry.versions() == before
    assert columns(warehouse) == ()


def test_a_registry_that_is_down_changes_nothing(
    warehouse: Warehouse, registry: Registry, own_registry: LocalStack
) -> None:
    fill(warehouse)
    registry.current()
    server = own_registry.registry
    assert server is not None
    server.kill()
    with pytest.raises(ServiceUnavailableError):
        promote(warehouse, registry, [SCORE])
    with pytest.raises(ServiceUnavailableError):
        catch_up(warehouse, registry)
    assert columns(warehouse) == ()
    assert schema_versions(registry.folder).keys() == {1}
    server.start()
    assert promote(warehouse, registry, [SCORE]).fields == (SCORE,)


def test_two_promotions_at_once_make_one_version(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    registry.current()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(promote, warehouse, registry, [SCORE, MOOD]) for _ in range(2)]
        assert sorted(len(run.result().fields) for run in runs) == [0, 2]
    assert len(registry.versions()) == 2
    assert schema_versions(registry.folder).keys() == {1, 2}


def test_what_another_installation_registered_gets_its_column(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    registry.current()
    registry.register(with_promoted(latest_schema(), [SCORE]))
    done = catch_up(warehouse, registry)
    assert (done.fields, done.version) == ((SCORE,), 2)
    assert scores(warehouse) == [7] * 30
    assert catch_up(warehouse, registry).fields == ()


def test_a_folder_that_can_not_be_written_stops_nothing(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    file = registry.folder / "CanonicalCcaaEvent.v2.avsc"

    def refuse(*_: object) -> Path:
        raise PermissionError(13, "Permission denied", str(file))

    with pytest.MonkeyPatch.context() as patch:  # root may write anywhere
        patch.setattr("warehouse.promotion.write_version", refuse)
        done = promote(warehouse, registry, [SCORE])
    assert done.fields == (SCORE,)
    assert done.file.startswith("not written")
    assert catch_up(warehouse, registry).file.startswith("written to")
    assert file.is_file()


def test_a_verdict_tells_of_a_promoted_field_that_stops_coming(warehouse: Warehouse, registry: Registry) -> None:
    fill(warehouse)
    promote(warehouse, registry, [SCORE])
    found = proposal(warehouse, registry, as_of=date(1999, 3, 15), thresholds=Thresholds())
    (evidence,) = [item for item in found.evidence if item.key == SCORE.key]
    assert evidence.verdict is Verdict.PROMOTED
    assert "has not come since 1999-01-30" in evidence.reason


# Ends itself where a step begins, as kill -9 would.
_KILLED = """
import os, signal, sys
from pathlib import Path
import warehouse.promotion as promotion
from schemas.promoted import PromotedField
from schemas.registry import Registry
from streaming.settings import RegistrySettings
from warehouse.engine import Warehouse

url, landing, registry_url, folder, step = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

owner, name = {
    "check": (Registry, "check"), "register": (Registry, "register"), "settle": (promotion, "_settle"),
    "file": (promotion, "write_version"), "columns": (promotion, "add_promoted"),
}[step]
setattr(owner, name, die)
registry = Registry(RegistrySettings(url=registry_url, schema_dir=Path(folder)))
promotion.promote(
    Warehouse(url=url, landing_dir=Path(landing), lock_seconds=20), registry,
    [PromotedField("genesys_score", "genesys.score", "long")],
)
"""


@pytest.mark.parametrize("step", ["check", "register", "settle", "file", "columns"])
def test_killed_before_any_step_a_later_run_comes_to_the_same(
    warehouse: Warehouse, registry: Registry, own_registry: LocalStack, step: str
) -> None:
    fill(warehouse)
    registry.current()
    arguments = [warehouse.url, str(warehouse.landing_dir), own_registry.registry_url, str(registry.folder), step]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], check=False, timeout=60, env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    catch_up(warehouse, registry)
    promote(warehouse, registry, proposed(warehouse, registry, exclude=[MOOD.key]))
    assert promoted_fields(registry.current()[0]) == (SCORE,)
    assert len(registry.versions()) == 2
    assert schema_versions(registry.folder).keys() == {1, 2}
    assert scores(warehouse) == [7] * 30
