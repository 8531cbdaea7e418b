"""prefect.yaml is right before any server sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.flows import Flow
from prefect.utilities.importtools import import_object

from devstack.prefect import POOLS
from streaming.run import services

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = DOCUMENT["deployments"]


def by_name(deployment: dict[str, Any]) -> str:
    return str(deployment["name"])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    flow: Flow[..., Any] = import_object(deployment["entrypoint"])
    return flow


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=by_name)
def test_the_entry_point_is_a_flow_and_takes_the_parameters(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    assert isinstance(flow, Flow)
    assert flow.name == deployment["name"]
    given = deployment.get("parameters", {})
    if missing := set(flow.parameters.required) - set(given):
        # A person gives them; a schedule could not.
        assert not deployment.get("schedules"), f"{missing} have no value"
    else:
        flow.validate_parameters(given)
        for schedule in deployment.get("schedules", []):
            flow.validate_parameters(given | schedule.get("parameters", {}))


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=by_name)
def test_pools_exist_and_schedules_are_cron_in_utc(deployment: dict[str, Any]) -> None:
    assert deployment["work_pool"]["name"] in POOLS
    for schedule in deployment.get("schedules", []):
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).timezone == "UTC"
        assert schedule["slug"]


def test_every_streaming_service_is_a_deployment_that_comes_back() -> None:
    streams = {item["name"]: item for item in DEPLOYMENTS if "stream" in item["tags"]}
    assert set(streams) == set(services())
    for name, deployment in streams.items():
        assert deployment["work_pool"]["name"] == "streams"
        (trigger,) = deployment["triggers"]
        DeploymentEventTrigger.model_validate(trigger)
        assert trigger["expect"] == ["prefect.flow-run.Crashed"]
        assert trigger["match_related"]["prefect.resource.id"] == f"prefect.tag.{name}"
        assert name in deployment["tags"]


def test_recovery_runs_wait_for_each_other() -> None:
    """A run by hand, or one that takes longer than its period, must not make a scheduled one vanish."""
    limits = {item["name"]: item.get("concurrency_limit") for item in DEPLOYMENTS}
    for name in ("cxone-reconcile", "genesys-completeness", "cxone-register", "dlq-reprocess"):
        assert limits[name] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_every_deployment_says_what_it_does() -> None:
    assert len({item["name"] for item in DEPLOYMENTS}) == len(DEPLOYMENTS)
    assert all(len(item["description"]) > 20 for item in DEPLOYMENTS)
