"""Deployment keep-alive. Starts streaming deployments that have no run, within a budget.

A trigger in prefect.yaml restarts a crashed run within seconds, but may miss one after a restart of the server, and a
run that ended Failed or Completed is not its business. This flow looks every minute.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    DeploymentFilterTags,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import emit_event

STREAM_TAG = "stream"
_ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.CANCELLING, StateType.PAUSED]


@flow(name="keep-alive")
def keep_alive(max_starts_per_hour: int = 20) -> dict[str, str]:
    """Start every streaming deployment that has no living run.

    Args:
        max_starts_per_hour: Budget of a deployment. Beyond it nothing is started and the event
            ``ccaas.stream.restart-budget-exhausted`` is emitted, since a person must look.

    Returns:
        What was done, by deployment.
    """
    with get_client(sync_client=True) as client:
        deployments = client.read_deployments(
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[STREAM_TAG]))
        )
        done = {found.name: _keep(client, found, max_starts_per_hour) for found in deployments if not found.paused}
    create_table_artifact(
        key="streams", table=[{"deployment": name, "state": state} for name, state in sorted(done.items())]
    )
    return done


def _keep(client: SyncPrefectClient, deployment: DeploymentResponse, budget: int) -> str:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    alive = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ALIVE)))
    if client.read_flow_runs(deployment_filter=only, flow_run_filter=alive, limit=1):
        return "running"
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    lately = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=hour_ago))
    starts = len(client.read_flow_runs(deployment_filter=only, flow_run_filter=lately, limit=budget))
    logger = get_run_logger()
    if starts >= budget:
        logger.error("%s: %s starts within an hour; not started again, look at its runs", deployment.name, starts)
        emit_event(
            event="ccaas.stream.restart-budget-exhausted",
            resource={"prefect.resource.id": f"prefect.deployment.{deployment.id}"},
            payload={"deployment": deployment.name, "starts": starts},
        )
        return "budget exhausted"
    client.create_flow_run_from_deployment(deployment.id)
    logger.warning("%s had no run; started", deployment.name)
    return "started"
