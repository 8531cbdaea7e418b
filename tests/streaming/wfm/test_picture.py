"""What is shown at an instant, out of the live topic's records."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from schemas.canonical import EventType
from streaming.instants import to_ms
from streaming.wfm.picture import picture
from streaming.wfm.records import Records
from tests.streaming.wfm.test_fold import Live, fold_of, segment_of
from tests.warehouse.events import Event, at, event, status

WHERE = {"queue": "sales", "media": "VOICE"}


def published(items: list[Event], closed: str = "09:00:00") -> Live:
    fold = fold_of()
    fold.apply(segment_of(items), fold.clock_ms)
    fold.behind_ms = 0
    fold.measure()
    fold.close_until(to_ms(at(closed)))
    made = Records(fold, "genesys", "bank-north").changed(all_cells=True)
    return {tuple(orjson.loads(key)): orjson.loads(value or b"") for key, value in made}


def shown(records: Live, now: str, intervals: int = 4) -> dict[str, Any]:
    return picture(records, to_ms(at(now)), intervals)


def test_an_event_from_a_little_ahead_leaves_the_open_interval_on_the_page() -> None:
    records = published(
        [
            status("08:50:00", "anna", "IDLE"),
            event(EventType.QUEUED, "09:10:00", "c1", **WHERE),
            event(EventType.ASSIGNED, "09:10:05", "c1", agent="anna", **WHERE),
            event(EventType.HANDLED, "09:11:00", "c1", agent="anna", **WHERE),
            event(EventType.QUEUED, "09:16:00", "ahead", **WHERE),
        ]
    )
    page = shown(records, "09:12:00")
    (queue,), (agent,) = page["queues"], page["agents"]
    assert page["interval_start"] == queue["interval_start"] == "1999-01-04T09:00:00Z"
    assert (queue["offered"], queue["answered"], queue["service_level"]) == (1, 1, 1.0)
    assert agent["handled"] == 1
    later = shown(records, "09:17:00")
    assert (later["queues"][0]["offered"], later["agents"][0]["handled"]) == (1, 0)
    assert shown(records, "09:31:00")["queues"][0]["offered"] == 0, "nothing has happened yet"


@pytest.mark.parametrize(("asked", "seen"), [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (192, 3)])
def test_as_many_intervals_as_asked_for_if_there_are(asked: int, seen: int) -> None:
    calls = [event(EventType.QUEUED, clock, clock, **WHERE) for clock in ("08:00:00", "08:20:00", "08:40:00")]
    page = shown(published(calls), "09:01:00", asked)
    assert len(page["queue_intervals"]) == seen


def test_figures_that_nobody_keeps_are_stale() -> None:
    records = published([event(EventType.QUEUED, "09:00:00", "c1", **WHERE)])
    published_ms = records["tenant",]["published_ms"]
    assert not picture(records, published_ms + 29_000, 4)["is_stale"]
    assert picture(records, published_ms + 31_000, 4)["is_stale"]
