"""One tenant's live state: conversations, queues' intervals and agents, folded from facts of all its partitions.

The result is a function of the set of facts, each counted once, so it does not matter which members passed them on, in
which order, or how often: a segment says which offsets it stands for, and what was had already is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from prometheus_client import Counter

from streaming.wfm.agent import Agent
from streaming.wfm.conversation import COLUMNS, WAITING, Conversation, Part, Place, Rules
from streaming.wfm.facts import STATUS, Fact, Segment

log = structlog.get_logger()

late_facts = Counter(
    "ccaas_wfm_too_late", "Events older than what is kept live; they are in the warehouse only", ["tenant"]
)
missing_facts = Counter("ccaas_wfm_missing_records", "Records of which no member passed on the facts", ["tenant"])
dropped_conversations = Counter(
    "ccaas_wfm_conversations_dropped", "Conversations forgotten early because of wfm.max_rows", ["tenant"]
)

_HOUR_MS = 3_600_000
# An agent who says nothing for longer is gone from the live view.
_LONGEST_SILENCE_MS = 31 * 24 * _HOUR_MS
_DROPPED_AT_ONCE = 1000

Cell = tuple[str, str, int]
"""Queue, media, interval's start (epoch ms)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long things are kept, ms of event time.

    Attributes:
        keep_ms: Intervals and finished conversations: for so long a late event amends.
        conversation_ms: A conversation that is waiting or in progress.
        status_ms: An agent's status other than OFF_QUEUE.
    """

    keep_ms: int
    conversation_ms: int
    status_ms: int


@dataclass(slots=True)
class Queue:
    """A queue and media now: conversations in it, with the time since when (epoch ms)."""

    waiting: dict[str, int] = field(default_factory=dict)
    in_progress: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Changes:
    """What is to be published anew."""

    cells: set[Cell] = field(default_factory=set)
    queues: set[tuple[str, str]] = field(default_factory=set)
    agents: set[str] = field(default_factory=set)
    agent_cells: set[tuple[str, int]] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.cells or self.queues or self.agents or self.agent_cells)


class Fold:
    """One tenant's.

    Args:
        tenant: Name for logs and metrics.
        rules: How intervals are cut.
        limits: How long things are kept.

    Attributes:
        covered: By partition of the events topic: the offset behind the last record that is in the state.
        newest: By partition: the newest event time, epoch ms; 0 if none yet.
        clock_ms: The newest event time of all, epoch ms.
        behind_ms: By how much the clock was behind the wall's when it moved: seconds in life, days in a replay.
        closed_ms: Intervals that begin before it are over.
        horizon_ms: What is older is forgotten and not counted any more.
        changes: What is to be published.
    """

    def __init__(self, tenant: str, rules: Rules, limits: Limits) -> None:
        self.tenant = tenant
        self.rules = rules
        self.limits = limits
        self.covered: dict[int, int] = {}
        self.newest: dict[int, int] = {}
        self.clock_ms = 0
        self.behind_ms = 0
        self.closed_ms = 0
        self.horizon_ms = 0
        self.changes = Changes()
        self.cells: dict[Cell, list[int]] = {}
        self.queues: dict[tuple[str, str], Queue] = {}
        self.agents: dict[str, Agent] = {}
        self._conversations: dict[str, Conversation] = {}
        self._unmeasured: dict[str, Conversation] = {}
        self._fact_rows = 0
        self._status_rows = 0

    @property
    def rows(self) -> int:
        """How much is kept: facts, status changes and cells."""
        return self._fact_rows + self._status_rows + len(self.cells)

    # Facts come in

    def apply(self, segment: Segment, written_ms: int) -> int:
        """Take in what a segment has beyond what was had. :meth:`measure` afterwards.

        Args:
            segment: From any member.
            written_ms: When it was passed on, epoch ms.

        Returns:
            How many facts that were.
        """
        partition, first, next_, newest_ms, facts = segment
        covered = self.covered.get(partition, first)
        if first > covered:
            missing_facts.labels(self.tenant).inc(first - covered)
            log.error("facts are missing: live figures lack these records, the warehouse has them", tenant=self.tenant,
                      partition=partition, first=covered, next=first)  # fmt: skip
        if next_ <= covered and partition in self.covered:
            return 0
        taken = 0
        for fact in facts:
            if fact[0] < covered:
                continue
            taken += 1
            if fact[1] == STATUS:
                self._take_status(fact)
            else:
                self._take_conversation(fact)
        self.covered[partition] = max(covered, next_)
        if newest_ms > self.newest.get(partition, -1):
            self.newest[partition] = newest_ms
            if newest_ms > self.clock_ms:
                self.clock_ms, self.behind_ms = newest_ms, written_ms - newest_ms
        return taken

    def _take_status(self, fact: Fact) -> None:
        _, _, at_ms, id_, status, _, name, _, _, _ = fact
        if name is None:
            return
        agent = self.agents.get(name)
        if agent is None:
            agent = self.agents[name] = Agent()
        if not agent.statuses:  # legs that were finished before its first status count from now on
            self.changes.agent_cells.update((name, start) for start in agent.handled if start < self.closed_ms)
        until_ms = agent.add(at_ms, id_, status)
        if until_ms is None:
            return
        self._status_rows += 1
        self.changes.agents.add(name)
        self._touch_agent(name, at_ms, self.closed_ms if until_ms == at_ms else until_ms)

    def _touch_agent(self, name: str, from_ms: int, to_ms: int) -> None:
        """Closed intervals between two instants are to be published anew."""
        step = self.rules.step_ms
        agent = self.agents[name]
        if not agent.statuses:
            return
        start = max(from_ms, min(agent.statuses[0][0], *agent.handled, self.closed_ms))
        start = max(start - start % step, self.horizon_ms, self.closed_ms - self.limits.status_ms)
        while start < min(to_ms, self.closed_ms):
            self.changes.agent_cells.add((name, start))
            start += step

    def _take_conversation(self, fact: Fact) -> None:
        name, at_ms = fact[4], fact[2]
        conversation = self._conversations.get(name)
        if conversation is None:
            if at_ms < self.horizon_ms:
                late_facts.labels(self.tenant).inc()
                return
            conversation = self._conversations[name] = Conversation()
            self._fact_rows += 1
        before = len(conversation)
        if conversation.add(fact):
            self._fact_rows += len(conversation) - before
            self._unmeasured[name] = conversation

    def measure(self) -> None:
        """Bring cells, queues and agents up to date with the conversations that changed."""
        for name, conversation in self._unmeasured.items():
            parts, legs, place = conversation.parts, conversation.legs, conversation.place
            conversation.measure(self.rules)
            self._replace_parts(parts, conversation.parts)
            if legs != conversation.legs:
                self._replace_legs(legs, conversation.legs)
            if place != conversation.place:
                self._move(name, place, conversation.place)
        self._unmeasured.clear()

    def _replace_parts(self, old: list[Part], new: list[Part]) -> None:
        same = len(old)
        if new[:same] != old:  # most facts add something and change nothing
            self._add(old, -1)
            same = 0
        self._add(new[same:], 1)

    def _add(self, parts: list[Part], sign: int) -> None:
        cells, changed, horizon = self.cells, self.changes.cells, self.horizon_ms
        for queue, media, start, column, amount in parts:
            if start < horizon:
                continue
            key = (queue, media, start)
            cell = cells.get(key)
            if cell is None:
                cell = cells[key] = [0] * len(COLUMNS)
            cell[column] += sign * amount
            changed.add(key)

    def _replace_legs(self, old: list[tuple[str, int]], new: list[tuple[str, int]]) -> None:
        for sign, legs in ((-1, old), (1, new)):
            for name, start in legs:
                if start < self.horizon_ms:
                    continue
                agent = self.agents.get(name)
                if agent is None:
                    agent = self.agents[name] = Agent()
                agent.handled[start] = agent.handled.get(start, 0) + sign
                self.changes.agents.add(name)
                if start < self.closed_ms:
                    self.changes.agent_cells.add((name, start))

    def _move(self, name: str, old: Place | None, new: Place | None) -> None:
        for place in (old, new):
            if place is None:
                continue
            key = (place.queue, place.media)
            queue = self.queues.get(key)
            if queue is None:
                queue = self.queues[key] = Queue()
            inside = queue.waiting if place.doing == WAITING else queue.in_progress
            if place is old:
                inside.pop(name, None)
            else:
                inside[name] = place.since_ms
            self.changes.queues.add(key)

    # Time passes

    def close_until(self, watermark_ms: int) -> bool:
        """Intervals that end at or before an event time are over; whether any is, that was not."""
        step = self.rules.step_ms
        closed_ms = watermark_ms - watermark_ms % step
        if closed_ms <= self.closed_ms:
            return False
        for key in self.cells:
            if self.closed_ms <= key[2] < closed_ms:
                self.changes.cells.add(key)
        before, self.closed_ms = self.closed_ms, closed_ms
        for name in self.agents:
            self._touch_agent(name, before, closed_ms)
        self.changes.queues.update(self.queues)
        return True

    def is_over(self, watermark_ms: int) -> bool:
        """Whether :meth:`forget` would do anything."""
        return self._horizon_of(watermark_ms) > self.horizon_ms

    def forget(self, watermark_ms: int) -> None:
        """Forget what is older than the limits. All changes must be published: what is forgotten can't be any more.

        Args:
            watermark_ms: Event time that every partition has passed.
        """
        if self.is_over(watermark_ms):
            self._move_horizon(self._horizon_of(watermark_ms), watermark_ms)

    def _horizon_of(self, watermark_ms: int) -> int:
        return watermark_ms - watermark_ms % self.rules.step_ms - self.limits.keep_ms

    def _move_horizon(self, horizon_ms: int, watermark_ms: int) -> None:
        self.horizon_ms = horizon_ms
        self.cells = {key: cell for key, cell in self.cells.items() if key[2] >= horizon_ms}
        open_since = min(horizon_ms, watermark_ms - self.limits.conversation_ms)
        over = [
            name
            for name, conversation in self._conversations.items()
            if conversation.last_ms < (horizon_ms if conversation.place is None else open_since)
        ]
        self._drop(over)
        for name, agent in list(self.agents.items()):
            self._status_rows -= agent.forget_before(horizon_ms)
            newest = agent.statuses[-1][0] if agent.statuses else None
            silent = not agent.handled if newest is None else newest < watermark_ms - _LONGEST_SILENCE_MS
            if silent:
                self._status_rows -= len(agent.statuses)
                del self.agents[name]
                self.changes.agents.add(name)
        lively = {key[:2] for key in self.cells}
        for key, queue in list(self.queues.items()):
            if not queue.waiting and not queue.in_progress and key not in lively:
                del self.queues[key]
                self.changes.queues.add(key)

    def shrink(self) -> None:
        """Forget the oldest, since there is no room for all: first closed intervals, then conversations.

        As for :meth:`forget`, all changes must be published.
        """
        step = self.rules.step_ms
        oldest = min((key[2] for key in self.cells), default=self.closed_ms)
        horizon_ms = max(oldest, self.horizon_ms) + step
        if horizon_ms <= self.closed_ms:
            self._move_horizon(horizon_ms, self.closed_ms)
            return
        names = [name for name, one in self._conversations.items() if one.place is None] or list(self._conversations)
        del names[max(_DROPPED_AT_ONCE, len(names) // 10) :]
        dropped_conversations.labels(self.tenant).inc(len(names))
        self._drop(names)

    def _drop(self, names: list[str]) -> None:
        for name in names:
            conversation = self._conversations.pop(name)
            self._unmeasured.pop(name, None)
            self._fact_rows -= len(conversation)
            self._move(name, conversation.place, None)

    # State is kept and found again

    def dump(self) -> Iterator[list[Any]]:
        """Everything that is to be known, in small pieces for JSON."""
        for name, conversation in self._conversations.items():
            yield ["conversation", name, conversation.dump()]
        for key, cell in self.cells.items():
            yield ["cell", key, cell]
        for name, agent in self.agents.items():
            yield ["agent", name, agent.dump()]

    def head(self) -> dict[str, Any]:
        """Clocks and offsets that belong to :meth:`dump`."""
        return {
            "covered": list(self.covered.items()),
            "newest": list(self.newest.items()),
            "clock_ms": self.clock_ms,
            "behind_ms": self.behind_ms,
            "closed_ms": self.closed_ms,
            "horizon_ms": self.horizon_ms,
            "step_ms": self.rules.step_ms,
            "threshold_ms": self.rules.threshold_ms,
        }

    def load(self, head: dict[str, Any], pieces: Iterable[list[Any]]) -> None:
        """What :meth:`head` and :meth:`dump` gave, into an empty fold."""
        same_rules = (head["step_ms"], head["threshold_ms"]) == self.rules
        self.covered, self.newest = dict(head["covered"]), dict(head["newest"])
        self.clock_ms, self.behind_ms = head["clock_ms"], head["behind_ms"]
        self.closed_ms, self.horizon_ms = head["closed_ms"], head["horizon_ms"]
        for kind, name, state in pieces:
            if kind == "agent":
                self.agents[name] = agent = Agent.load(state)
                self._status_rows += len(agent.statuses)
            elif kind == "cell" and same_rules:
                self.cells[tuple(name)] = state
            elif kind == "conversation":
                self._conversations[name] = conversation = Conversation.load(state)
                self._fact_rows += len(conversation)
        if not same_rules:  # the settings changed: what is kept of the conversations is cut anew
            for agent in self.agents.values():
                agent.handled.clear()
            self._unmeasured.update(self._conversations)
            self.measure()
            return
        for name, conversation in self._conversations.items():
            conversation.measure(self.rules)  # its parts are in the cells, its legs with the agents
            self._move(name, None, conversation.place)

    def touch_all(self) -> None:
        """Everything is to be published anew."""
        self.changes.queues.update(self.queues)
        self.changes.cells.update(self.cells)
        self.changes.agents.update(self.agents)
        for name in self.agents:
            self._touch_agent(name, self.horizon_ms or self.closed_ms - self.limits.keep_ms, self.closed_ms)
