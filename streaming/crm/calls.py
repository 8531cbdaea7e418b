"""The CRM calls of one poll: side by side, each tried again a few times, within a deadline."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterable
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

# Then the rest of the poll goes on without it: one event that the CRM fails on must not cost every poll its deadline.
_ATTEMPTS = 7
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 5.0
# How soon the end of the service, or an order to wait, is noticed.
_LOOK_S = 0.05


@dataclass
class Answers:
    """What became of a poll's calls. Those in neither set are to be made again.

    Attributes:
        taken: Event ids that the CRM has.
        refused: Why it refuses an event for good, by event id.
        fault: Why others are not done, the last one seen.
        wait: Seconds that the CRM asks to wait with the next call.
    """

    taken: set[str] = field(default_factory=set)
    refused: dict[str, BadEventError] = field(default_factory=dict)
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

    def make(self, activities: Iterable[Activity]) -> Answers:
        """Make the calls; returns once all are done, or at the deadline, or as soon as going on makes no sense.

        Args:
            activities: Of different events: two calls of one key at once might both be refused.
        """
        return self._runner.run(_Round(self._client, self._concurrency, self._deadline_s, self._stop).make(activities))

    def close(self) -> None:
        """Let go of the connections."""
        with self._runner:
            self._runner.run(self._client.close())


class _Round:
    """One poll's calls."""

    def __init__(self, client: CrmClient, concurrency: int, deadline_s: float, stop: threading.Event) -> None:
        self._client = client
        self._free = asyncio.Semaphore(concurrency)
        self._deadline_s = deadline_s
        self._stop = stop
        self._answers = Answers()
        self._not_before = 0.0
        """Instant of the loop before which the CRM wants no call."""

    async def make(self, activities: Iterable[Activity]) -> Answers:
        loop, answers = asyncio.get_running_loop(), self._answers
        deadline = loop.time() + self._deadline_s
        open_ = {asyncio.ensure_future(self._until_answered(activity)) for activity in activities}
        try:
            while open_ and loop.time() < deadline and not self._is_hopeless(deadline):
                done, open_ = await asyncio.wait(open_, timeout=_LOOK_S)
                for task in done:
                    task.result()
        finally:
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)
        answers.wait = max(0.0, self._not_before - loop.time())
        return answers

    def _is_hopeless(self, deadline: float) -> bool:
        is_refused = isinstance(self._answers.fault, ConfigurationError)
        return is_refused or self._stop.is_set() or self._not_before >= deadline

    async def _until_answered(self, activity: Activity) -> None:
        for failures in range(1, _ATTEMPTS + 1):
            if await self._attempt(activity) or failures == _ATTEMPTS:
                return
            longest = min(_FIRST_WAIT_S * 2.0 ** (failures - 1), _LONGEST_WAIT_S)
            await asyncio.sleep(random.uniform(longest / 2, longest))

    async def _attempt(self, activity: Activity) -> bool:
        """Whether the CRM answered for good."""
        answers, loop = self._answers, asyncio.get_running_loop()
        async with self._free:
            while (wait := self._not_before - loop.time()) > 0:
                await asyncio.sleep(wait)
            try:
                with under_way.track_inprogress(), call_seconds.time():
                    done = await self._client.send(activity)
            except BadEventError as error:
                answers.refused[activity.event_id] = error
                calls.labels("refused").inc()
                return True
            except (CrmUnavailableError, ConfigurationError) as error:
                answers.fault = error
                if isinstance(error, CrmUnavailableError) and error.retry_after:
                    self._not_before = max(self._not_before, loop.time() + error.retry_after)
                calls.labels("again").inc()
                return False
        answers.taken.add(activity.event_id)
        calls.labels(done).inc()
        return True
