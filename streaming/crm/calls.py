"""The CRM calls of one poll: side by side, each tried again a few times, within a deadline."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import structlog
import uvloop
from prometheus_client import Counter, Gauge, Histogram

from streaming.crm.client import Activity, CrmClient, CrmUnavailableError
from streaming.errors import BadEventError, CcaasError, ConfigurationError
from streaming.settings import CrmSettings

log = structlog.get_logger()

calls = Counter("ccaas_crm_calls", "Calls to the CRM", ["answer"])
call_seconds = Histogram("ccaas_crm_call_seconds", "Time of one call, answered or not")
under_way = Gauge("ccaas_crm_calls_under_way", "Calls that wait for the CRM's answer")

# One event that the CRM fails on must not cost every poll its deadline: it is tried so often, for so long after all
# others were tried, and in later polls once.
_ATTEMPTS = 7
_LAST_S = 1.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
# A CRM that asks for more is asked again after so long all the same.
_LONGEST_ASKED_S = 300.0
# Ids known to have failed before; at the bound all are forgotten, and tried as often as new ones.
_MOST_FAILED = 10_000
# How soon the end of the service, or an order to wait, is noticed.
_LOOK_S = 0.05


@dataclass
class Answers:
    """What became of a poll's calls. Those neither taken nor refused are to be made again.

    Attributes:
        taken: Event ids that the CRM has.
        refused: Why it refuses an event for good, by event id.
        failed: Event ids for which it was asked in vain.
        fault: Why others are not done, the last one seen.
        wait: Seconds that the CRM asks to wait with the next call.
    """

    taken: set[str] = field(default_factory=set)
    refused: dict[str, BadEventError] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    fault: CcaasError | None = None
    wait: float = 0.0


class Calls:
    """Makes calls in an event loop of its own, from one thread.

    Args:
        client: The CRM.
        settings: The section ``crm``.
        stop: Ends the calls early: what is not done is left to the next member.
    """

    def __init__(self, client: CrmClient, settings: CrmSettings, stop: threading.Event) -> None:
        self._client = client
        self._concurrency = settings.concurrency
        self._deadline_s = settings.deadline_seconds
        self._stop = stop
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._not_before = 0.0
        self._failed: set[str] = set()

    def make(self, activities: Iterable[Activity]) -> Answers:
        """Make the calls; returns once all are done, or at the deadline, or as soon as going on makes no sense.

        Args:
            activities: Of different events: two calls of one key at once might both be refused.
        """
        wait = self._not_before - time.monotonic()
        if wait > self._deadline_s:
            fault = CrmUnavailableError(f"the CRM asked for no calls; {wait:.0f} s of that are left")
            return Answers(fault=fault, wait=wait)
        calls_ = _Round(self._client, self._concurrency, self._deadline_s, self._stop, self._failed, self._not_before)
        answers = self._runner.run(calls_.make(list(activities)))
        self._not_before = calls_.not_before
        self._failed = (self._failed | answers.failed) - answers.taken - answers.refused.keys()
        if len(self._failed) > _MOST_FAILED:
            self._failed.clear()
        return answers

    def close(self) -> None:
        """Let go of the connections."""
        with self._runner:
            self._runner.run(self._client.close())


@dataclass
class _Round:
    """One poll's calls.

    Attributes:
        failed_before: Event ids that are tried once only.
        not_before: Monotonic instant before which the CRM wants no call.
    """

    client: CrmClient
    concurrency: int
    deadline_s: float
    stop: threading.Event
    failed_before: Collection[str]
    not_before: float

    async def make(self, activities: list[Activity]) -> Answers:
        answers = self._answers = Answers()
        self._free = asyncio.Semaphore(self.concurrency)
        self._untried = len(activities)
        self._side_by_side = min(len(activities), self.concurrency)
        self._end = time.monotonic() + self.deadline_s
        open_ = {asyncio.ensure_future(self._until_answered(activity)) for activity in activities}
        try:
            while open_ and time.monotonic() < self._end and not self._is_hopeless():
                done, open_ = await asyncio.wait(open_, timeout=_LOOK_S)
                for task in done:
                    task.result()
        finally:
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)
        answers.wait = max(0.0, self.not_before - time.monotonic())
        return answers

    def _is_hopeless(self) -> bool:
        """Whether going on makes no sense. A setting is wrong if all calls are told so, not if one event's is."""
        answers = self._answers
        is_refused = (
            isinstance(answers.fault, ConfigurationError)
            and not answers.taken
            and len(answers.failed) >= self._side_by_side
        )
        return is_refused or self.stop.is_set() or self.not_before >= self._end

    async def _until_answered(self, activity: Activity) -> None:
        attempts = 1 if activity.event_id in self.failed_before else _ATTEMPTS
        for failures in range(1, attempts + 1):
            is_done = await self._attempt(activity)
            if failures == 1:
                self._untried -= 1
                if not self._untried:
                    self._end = min(self._end, time.monotonic() + _LAST_S)
            if is_done or failures == attempts:
                return
            longest = min(_FIRST_WAIT_S * 2.0 ** (failures - 1), _LONGEST_WAIT_S)
            await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _attempt(self, activity: Activity) -> bool:
        """Whether the CRM answered for good."""
        answers = self._answers
        async with self._free:
            while (wait := self.not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                with under_way.track_inprogress(), call_seconds.time():
                    done = await self.client.send(activity)
            except BadEventError as error:
                answers.refused[activity.event_id] = error
                calls.labels("refused").inc()
                return True
            except (CrmUnavailableError, ConfigurationError) as error:
                answers.failed.add(activity.event_id)
                answers.fault = error
                if isinstance(error, CrmUnavailableError) and error.retry_after:
                    asked = min(error.retry_after, _LONGEST_ASKED_S)
                    self.not_before = max(self.not_before, time.monotonic() + asked)
                calls.labels("again").inc()
                return False
        answers.taken.add(activity.event_id)
        calls.labels(done).inc()
        return True
