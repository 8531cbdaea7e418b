"""A past window is compared with the bus and completed by REST."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from schemas.canonical import RECOVERED_KEY
from streaming.errors import ConfigurationError
from streaming.vendors.genesys.backfill import backfill, genesys_tenant
from tests.conftest import Platform
from tests.kafka import read_events
from tests.processes import until
from tests.streaming.genesys.simulator import GenesysPath, genesys_path


def day_of(path: GenesysPath) -> tuple[datetime, datetime]:
    """The trace's day: its simulated clock stands after the last event."""
    last = datetime.fromisoformat(path.status()["sim_now"])
    start = datetime(last.year, last.month, last.day, tzinfo=UTC)
    return start, start + timedelta(days=1)


def test_what_the_stream_missed_is_published_once(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.start(speed=480)
        until(lambda: path.played() > 200, what="some events")
        path.ingest.kill()
        until(lambda: path.status()["state"] == "done", 60, "trace played")
        settings, (start, end) = platform.settings(), day_of(path)
        tenant = genesys_tenant(settings, path.tenant)
        before = path.ids()

        counted = backfill(settings, tenant, start, end, publish=False)
        assert path.ids() == before
        assert sum(counted.expected.values()) == len(path.expected_ids)
        assert sum(counted.missing.values()) == len(path.expected_ids) - len(before)

        done: list[datetime] = []
        report = backfill(settings, tenant, start, end, progress=done.append)
        assert report.missing == counted.missing
        assert report.missing_share == pytest.approx(1 - len(before) / len(path.expected_ids))
        assert done == [end]
        events = read_events(platform, path.topic)
        assert {event["event_id"] for event in events} == path.expected_ids
        recovered = {e["event_id"] for e in events if e["metadata"].get(RECOVERED_KEY) == "backfilled"}
        assert len(recovered) == sum(report.missing.values())

        assert backfill(settings, tenant, start, end).missing == {}


def test_a_window_is_half_open(platform: Platform) -> None:
    with genesys_path(platform) as path:
        path.ingest.kill()
        path.start(speed=0)
        until(lambda: path.status()["state"] == "done", 60, "trace played")
        settings, (start, _) = platform.settings(), day_of(path)
        tenant = genesys_tenant(settings, path.tenant)
        middle = start + timedelta(minutes=20)
        first = backfill(settings, tenant, start, middle)
        second = backfill(settings, tenant, middle, start + timedelta(days=1))
        assert 0 < sum(first.missing.values()) < len(path.expected_ids)
        assert sum(first.missing.values()) + sum(second.missing.values()) == len(path.expected_ids)
        assert {event["event_id"] for event in read_events(platform, path.topic)} == path.expected_ids


def test_a_wrong_window_and_a_wrong_tenant_are_named(platform: Platform) -> None:
    platform.add_tenant(
        "genesys", "north", token_url="http://127.0.0.1:1/t", api_url="http://127.0.0.1:1", client_id="i",
        stream_url="http://127.0.0.1:1/s", client_secret="s",
    )  # fmt: skip
    settings = platform.settings()
    (tenant,) = settings.tenants
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    with pytest.raises(ConfigurationError, match="the end after the start"):
        backfill(settings, tenant, noon, noon)
    with pytest.raises(ConfigurationError, match="with an offset"):
        backfill(settings, tenant, noon.replace(tzinfo=None), noon)
    with pytest.raises(ConfigurationError, match="is no Genesys tenant; there are north-"):
        genesys_tenant(settings, "south")


def test_a_missing_scope_is_named(platform: Platform) -> None:
    with genesys_path(platform, arguments=["--scopes", "streaming:read"], ready=False) as path:
        settings, (start, end) = platform.settings(), day_of(path)
        with pytest.raises(ConfigurationError, match="lacks the scope conversation:view"):
            backfill(settings, genesys_tenant(settings, path.tenant), start, end)
