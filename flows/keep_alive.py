"""Deployment keep-alive. Starts streaming deployments that have no living run, within a budget.

A trigger in prefect.yaml restarts a crashed run within seconds, but may miss one after a restart of the server; a run
that ended Failed or Completed is not its business, and neither is one whose machine vanished: that stays Running for
ever, but its heartbeats stop. This flow looks every minute.
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
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events import emit_event
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Crashed

from flows._alert_key import ALERT_KEY

STREAM_TAG = "stream"
EXHAUSTED = "ccaas.stream.restart-budget-exhausted"
"""Event raised when a deployment was started so often within an hour that a person must look."""

_ALIVE = [StateType.RUNNING, StateType.PENDING, StateType.SCHEDULED, StateType.CANCELLING, StateType.PAUSED]


@flow(name="keep-alive")
def keep_alive(max_starts_per_hour: int = 20, silent_minutes: int = 10) -> dict[str, str]:
    """Start every streaming deployment that has no living run.

    Args:
        max_starts_per_hour: Budget of a deployment. Beyond it nothing is started and the event
            ``ccaas.stream.restart-budget-exhausted`` is emitted, since a person must look.
        silent_minutes: A running run without a heartbeat for so long counts as crashed. At least three times
            ``PREFECT_FLOWS_HEARTBEAT_FREQUENCY``.

    Returns:
        What was done, by deployment.
    """
    with get_client(sync_client=True) as client:
        deployments = client.read_deployments(
            deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[STREAM_TAG]))
        )
        silence = timedelta(minutes=silent_minutes)
        done = {
            found.name: _keep(client, found, max_starts_per_hour, silence) for found in deployments if not found.paused
        }
    create_table_artifact(
        key="streams", table=[{"deployment": name, "state": state} for name, state in sorted(done.items())]
    )
    return done


def _keep(client: SyncPrefectClient, deployment: DeploymentResponse, budget: int, silence: timedelta) -> str:
    only = DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
    alive = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ALIVE)))
    runs = client.read_flow_runs(deployment_filter=only, flow_run_filter=alive)
    logger = get_run_logger()
    silent = [run for run in runs if _is_silent(client, run, silence)]
    for run in silent:
        # Two copies at once do no harm: if this one lives after all, leases and locks keep them apart.
        logger.error("%s: run %s gave no sign of life for %s; marked as crashed", deployment.name, run.name, silence)
        client.set_flow_run_state(run.id, Crashed(message=f"no sign of life for {silence}"), force=True)
    if len(runs) > len(silent):
        return "running"
    if silent:
        return "marked as crashed"  # the trigger of the deployment starts it anew; if not, the next minute does
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    lately = FlowRunFilter(start_time=FlowRunFilterStartTime(after_=hour_ago))
    starts = len(client.read_flow_runs(deployment_filter=only, flow_run_filter=lately, limit=budget))
    if starts >= budget:
        logger.error("%s: %s starts within an hour; not started again, look at its runs", deployment.name, starts)
        emit_event(
            event=EXHAUSTED,
            resource={
                "prefect.resource.id": f"prefect.deployment.{deployment.id}",
                ALERT_KEY: f"{EXHAUSTED}/{deployment.name}",
            },
            payload={"deployment": deployment.name, "starts": starts},
        )
        return "budget exhausted"
    client.create_flow_run_from_deployment(deployment.id)
    logger.warning("%s had no run; started", deployment.name)
    return "started"


def _is_silent(client: SyncPrefectClient, run: FlowRun, silence: timedelta) -> bool:
    """Whether a run is dead though its state says otherwise.

    Pending or cancelling for so long: its worker died with it. Running, and it gave heartbeats once, but none for so
    long. One that never gave any tells nothing: heartbeats may be switched off.
    """
    now = datetime.now(UTC)
    if run.state_type in {StateType.PENDING, StateType.CANCELLING}:
        return run.state is not None and run.state.timestamp < now - silence
    if run.state_type != StateType.RUNNING or run.start_time is None or run.start_time > now - silence:
        return False
    return _heartbeat(client, run, run.start_time) and not _heartbeat(client, run, now - silence)


def _heartbeat(client: SyncPrefectClient, run: FlowRun, since: datetime) -> bool:
    """Whether the server has a heartbeat of the run since then."""
    beats = EventFilter(
        occurred=EventOccurredFilter(since=since),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run.id}"]),
    )
    return client.read_events(beats, limit=1).total > 0
