"""The flow on a real Prefect server, each run a process of its own: approved by rule, by a person, by nobody."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from prefect.exceptions import ParameterTypeError

from devstack.prefect import PrefectServer
from devstack.stack import LocalStack
from flows.promote_metadata_fields import PROMOTED, promote_metadata_fields
from schemas.canonical import AVRO_DIR, latest_schema, schema_versions
from schemas.promoted import promoted_fields
from schemas.registry import Registry
from tests.conftest import Platform
from tests.flows.flow_process import start_flow
from tests.processes import until
from tests.warehouse.month import AS_OF, MOOD, SCORE, land_month, register_and_drop_score
from warehouse.engine import Warehouse, reader
from warehouse.load_events import load_events
from warehouse.schema import open_warehouse

pytestmark = pytest.mark.timeout(300)


class Run:
    """A flow run."""

    def __init__(self, house: House, name: str, parameters: dict[str, Any]) -> None:
        self._http, self._name = house.http, name
        self._log, self._result = (house.platform.folder / f"{name}.{suffix}" for suffix in ("log", "json"))
        self.process = start_flow(
            "flows.promote_metadata_fields.promote_metadata_fields",
            name,
            parameters,
            environment=house.prefect.environment() | {"CCAAS_CONFIG": str(house.platform.config)},
            log=self._log,
            result=self._result,
        )

    @property
    def id(self) -> str:
        return str(self._seen()["id"])

    def state(self) -> str:
        """Empty while the server does not know the run."""
        return str(self._seen().get("state_type", ""))

    def wait_for(self, state: str) -> None:
        def is_there() -> bool:
            found = self.state()
            assert found == state or self.process.is_alive(), f"{found}: {self._log.read_text()[-3000:]}"
            return found == state

        until(is_there, 120, f"the run is {state}")

    def resume(self, **answer: Any) -> None:
        """What the form in the UI sends, as soon as the form is there."""
        self.wait_for("PAUSED")
        body = {"run_input": answer}
        resume = lambda: self._http.post(f"/flow_runs/{self.id}/resume", json=body).json()["status"] == "ACCEPT"  # noqa: E731
        until(resume, 30, "resumed")

    def result(self) -> list[str]:
        """What the flow gave back."""
        self.process.join(200)
        assert self.process.exitcode == 0, self._log.read_text()[-3000:]
        assert self.state() == "COMPLETED"
        return list(json.loads(self._result.read_text()))

    def failure(self) -> str:
        """Why it failed, as people read it."""
        self.process.join(200)
        assert self.process.exitcode == 1
        assert self.state() == "FAILED"
        return str(self._seen()["state"]["message"])

    def artifacts(self) -> dict[str, str]:
        """Data by key."""
        body = {"artifacts": {"flow_run_id": {"any_": [self.id]}}}
        found = self._http.post("/artifacts/filter", json=body).raise_for_status().json()
        return {artifact["key"]: artifact["data"] for artifact in found}

    def _seen(self) -> dict[str, Any]:
        body = {"flow_runs": {"name": {"any_": [self._name]}}}
        found = self._http.post("/flow_runs/filter", json=body).raise_for_status().json()
        return dict(found[0]) if found else {}


class House:
    """An installation with a month of events, and the server that its flow runs are on."""

    def __init__(self, prefect: PrefectServer, platform: Platform, http: httpx.Client) -> None:
        self.prefect, self.platform, self.http = prefect, platform, http
        self.settings = platform.settings()
        self.registry = Registry(self.settings.registry)
        self._runs: list[Run] = []

    def run(self, **parameters: Any) -> Run:
        """Start the flow."""
        name = f"{self.platform.suffix}-{len(self._runs)}"
        self._runs.append(Run(self, name, {"as_of": AS_OF.isoformat()} | parameters))
        return self._runs[-1]

    def close(self) -> None:
        for run in self._runs:
            run.process.kill()
            run.process.join()
        self.registry.close()

    def versions(self) -> list[set[str]]:
        """Names of the promoted fields of each registered version; the folder has the same."""
        registered = [{field.name for field in promoted_fields(text)} for text in self.registry.versions().values()]
        own = [
            {field.name for field in promoted_fields(text)} for text in schema_versions(self.registry.folder).values()
        ]
        assert own == registered
        return registered

    def column(self, name: str) -> list[Any]:
        """A column of the events as people read it."""
        query: sa.Select[Any] = sa.select(sa.column(name)).select_from(sa.table("events"))
        with reader(Warehouse.from_settings(self.settings)) as connection:
            return list(connection.execute(query).scalars())

    def told(self, run: Run) -> list[dict[str, Any]]:
        """Events of a promotion that a run emitted."""
        related = {"id": [f"prefect.flow-run.{run.id}"]}
        found = self.http.post("/events/filter", json={"filter": {"event": {"name": [PROMOTED]}, "related": related}})
        return list(found.raise_for_status().json()["events"])


@pytest.fixture(scope="module")
def prefect(registry_alone: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(registry_alone.processes, tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def house(prefect: PrefectServer, own_registry: LocalStack, tmp_path: Path) -> Iterator[House]:
    platform = Platform(own_registry, tmp_path)
    shutil.copytree(AVRO_DIR, tmp_path / "avro")
    platform.registry["schema_dir"] = str(tmp_path / "avro")
    platform.add_tenant("cxone", "south")
    settings = platform.settings()
    land_month(settings.landing_dir)
    with open_warehouse(settings) as warehouse:
        load_events(warehouse, run_id="test")
    with httpx.Client(base_url=prefect.api_url, timeout=30) as http:
        made = House(prefect, platform, http)
        made.registry.current()
        yield made
        made.close()


def test_by_rule_all_that_qualify_become_columns_and_a_second_run_finds_nothing_to_do(house: House) -> None:
    run = house.run()
    assert run.result() == [MOOD.name, SCORE.name]
    assert house.versions() == [set(), {MOOD.name, SCORE.name}]
    assert house.column(SCORE.name) == [7] * 30
    artifacts = run.artifacts()
    assert artifacts.keys() == {"metadata-fields", "metadata-field-presence", "promoted-fields"}
    rows = json.loads(artifacts["metadata-fields"])
    assert [(row["field"], row["as"], row["verdict"], row["type"], row["presence min / mean"]) for row in rows] == [
        (MOOD.key, MOOD.name, "promote", "string", "100.0% / 100.0%"),
        (SCORE.key, SCORE.name, "promote", "long", "100.0% / 100.0%"),
    ]
    assert "data:image/png;base64," in artifacts["metadata-field-presence"]
    assert "CanonicalCcaaEvent.v2.avsc" in artifacts["promoted-fields"]
    until(lambda: house.told(run), 60, "an event tells of it")
    (event,) = house.told(run)
    assert event["payload"]["fields"] == f"{MOOD.name}, {SCORE.name}"

    again = house.run(fields=[SCORE.key])
    assert again.result() == []
    assert len(house.versions()) == 2
    assert "promoted-fields" not in again.artifacts()


def test_a_person_takes_one_of_two(house: House) -> None:
    run = house.run(approval="manual")
    run.wait_for("PAUSED")
    assert house.versions() == [set()]
    assert run.artifacts().keys() == {"metadata-fields", "metadata-field-presence"}, "the person has seen them"
    run.resume(fields=[SCORE.key])
    assert run.result() == [SCORE.name]
    assert house.versions() == [set(), {SCORE.name}]


def test_a_person_who_changes_nothing_in_the_form_takes_all(house: House) -> None:
    run = house.run(approval="manual")
    run.resume()
    assert run.result() == [MOOD.name, SCORE.name]


@pytest.mark.parametrize("answer", [{"approve": False}, {"fields": []}])
def test_a_person_refuses(house: House, answer: dict[str, Any]) -> None:
    run = house.run(approval="manual")
    run.resume(**answer)
    assert run.result() == []
    assert house.versions() == [set()]


def test_nobody_answers(house: House) -> None:
    run = house.run(approval="manual", approval_hours=0.001)
    # The server's words, or the flow's: whoever sees the end of the pause first.
    assert re.search("never resumed|nobody approved within 0.001 hours", run.failure())
    assert house.versions() == [set()]


def test_a_run_that_is_killed_while_it_waits_keeps_nobody_from_promoting(house: House) -> None:
    waiting = house.run(approval="manual")
    waiting.wait_for("PAUSED")
    waiting.process.kill()
    assert house.run(exclude=[MOOD.key]).result() == [SCORE.name]
    assert house.versions() == [set(), {SCORE.name}]


def test_a_proposal_is_only_shown(house: House) -> None:
    run = house.run(approval="propose", names={SCORE.key: "genesys_points"})
    assert run.result() == []
    assert "genesys_points" in run.artifacts()["metadata-fields"]
    assert house.versions() == [set()]
    # Without as_of it is the scheduled day, decades after these events.
    today = house.run(as_of=None)
    assert today.result() == []
    assert json.loads(today.artifacts()["metadata-fields"]) == [{"": "nothing in this window"}]


def test_a_refused_version_fails_the_run_and_changes_nothing(house: House) -> None:
    register_and_drop_score(house.registry)
    before = house.registry.versions()
    reason = house.run().failure()
    assert "version 2 registered" in reason
    assert SCORE.name in reason
    assert house.registry.versions() == before
    assert schema_versions(house.registry.folder) == {1: latest_schema()}
    with pytest.raises(sa.exc.ProgrammingError, match=SCORE.name):
        house.column(SCORE.name)


def test_a_field_that_is_not_proposed_is_named_and_the_artifact_says_why(house: House) -> None:
    run = house.run(fields=[SCORE.key, "genesys.nope"])
    assert "genesys.nope: not proposed" in run.failure()
    assert "metadata-fields" in run.artifacts()
    assert house.versions() == [set()]


@pytest.mark.parametrize(
    "wrong", [{"min_presence": 95}, {"min_presence": 0}, {"window_days": 0}, {"approval_hours": 0}, {"approval": "yes"}]
)
def test_parameters_that_mean_nothing_are_refused_before_the_run(wrong: dict[str, Any]) -> None:
    with pytest.raises(ParameterTypeError, match=next(iter(wrong))):
        promote_metadata_fields.validate_parameters(wrong)


def test_a_registry_that_comes_back_is_waited_for(house: House) -> None:
    server = house.platform.stack.registry
    assert server is not None
    server.kill()
    run = house.run()
    run.wait_for("RUNNING")
    server.start()
    assert run.result() == [MOOD.name, SCORE.name]


def test_two_runs_at_once_make_one_version(house: House) -> None:
    runs = [house.run(), house.run()]
    assert sorted(name for run in runs for name in run.result()) == [MOOD.name, SCORE.name]
    assert house.versions() == [set(), {MOOD.name, SCORE.name}]
