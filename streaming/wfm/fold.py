"""One tenant's live state: conversations, queues' intervals and agents, folded from facts of all its partitions.

The result is a function of the set of facts, each counted once, so it does not matter which members passed them on, in
which order, or how often: a segment says which offsets it stands for, and what was had already is skipped.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from prometheus_client import Counter

from streaming.wfm.agent import Agent
from streaming.wfm.conversation import (
    COLUMNS,
    MOST_FACTS,
    WAITING,
    Conversation,
    Part,
    Place,
    Rules,
    crowded_facts,
    json_of,
    last_ms_of,
)
from streaming.wfm.facts import STATUS, Fact, Segment
from streaming.wfm.forgotten import Forgotten

log = structlog.get_logger()

late_facts = Counter(
    "ccaas_wfm_too_late", "Events of what is no longer kept live; they are in the warehouse only", ["tenant"]
)
missing_facts = Counter("ccaas_wfm_missing_records", "Records of which no member passed on the facts", ["tenant"])
dropped_conversations = Counter(
    "ccaas_wfm_conversations_dropped", "Ended conversations forgotten early because of wfm.max_rows", ["tenant"]
)
dropped_open = Counter(
    "ccaas_wfm_open_conversations_dropped",
    "Conversations forgotten because of wfm.max_rows whose end was not seen: live figures are wrong",
    ["tenant"],
)

_HOUR_MS = 3_600_000
# An agent who says nothing for longer is gone from the live view.
_LONGEST_SILENCE_MS = 31 * 24 * _HOUR_MS
# A conversation that has ended is kept as text; a row stands for so much of it.
_ROW_BYTES = 600
# Status changes of one agent that are kept: what shares an id so often is no agent.
_MOST_STATUSES = 5000

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
        # Those that have ended, of which nothing was heard for a moment; and those that are to become so.
        self._packed: dict[str, bytes] = {}
        self._ended: set[str] = set()
        self._resting: set[str] = set()
        self._forgotten = Forgotten()
        self._crowded: set[str] = set()
        self._fact_rows = 0
        self._packed_rows = 0
        self._status_rows = 0

    @property
    def rows(self) -> int:
        """How much is kept: facts, conversations that have ended, status changes and cells."""
        return self._fact_rows + self._packed_rows + self._status_rows + len(self.cells) + self._forgotten.rows

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
        if len(agent.statuses) >= _MOST_STATUSES:
            crowded_facts.inc()
            if name not in self._crowded:
                self._crowded.add(name)
                log.error("too many events name the same agent; live figures count no more of it", tenant=self.tenant,
                          statuses=_MOST_STATUSES)  # fmt: skip
            return
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
        if conversation is None and (packed := self._packed.pop(name, None)) is not None:
            conversation = self._unpack(name, packed)
        if conversation is None:
            if at_ms < self.horizon_ms or name in self._forgotten:
                late_facts.labels(self.tenant).inc()
                return
            conversation = self._conversations[name] = Conversation()
            self._fact_rows += 1
        before = len(conversation)
        if conversation.add(fact):
            self._fact_rows += len(conversation) - before
            self._unmeasured[name] = conversation
            if conversation.is_full:
                log.error("too many events name the same conversation; live figures count no more of it",
                          tenant=self.tenant, facts=MOST_FACTS)  # fmt: skip

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
            if conversation.is_over:
                self._ended.add(name)
        self._unmeasured.clear()

    def pack(self) -> None:
        """Conversations that ended before the last call take less room from now on. Call it once a second or so."""
        for name in self._resting:
            conversation = self._conversations.get(name)
            # One that is full would only be unpacked for what it does not take in.
            if conversation is not None and name not in self._unmeasured and not conversation.is_full:
                del self._conversations[name]
                self._fact_rows -= len(conversation)
                self._pack(name, conversation.pack())
        self._resting, self._ended = self._ended, set()

    def _pack(self, name: str, packed: bytes) -> None:
        self._packed[name] = packed
        self._packed_rows += _rows_of(packed)

    def _unpack(self, name: str, packed: bytes) -> Conversation:
        self._packed_rows -= _rows_of(packed)
        conversation = self._conversations[name] = Conversation.load(orjson.loads(json_of(packed)))
        self._fact_rows += len(conversation)
        conversation.measure(self.rules)  # its parts are in the cells, its legs with the agents
        self._ended.add(name)
        return conversation

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
        horizon_ms = watermark_ms - self.limits.keep_ms
        return horizon_ms - horizon_ms % self.rules.step_ms

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
        for name in [name for name, packed in self._packed.items() if last_ms_of(packed) < horizon_ms]:
            self._packed_rows -= _rows_of(self._packed.pop(name))
        self._forgotten.forget_before(horizon_ms)
        self._crowded.clear()
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

    def drop_ended(self, rows: int) -> int:
        """Forget conversations that have ended, those that were heard of least lately first; figures keep them.

        Whatever comes of them afterwards is not counted.

        Args:
            rows: How many have to go.

        Returns:
            How many went.
        """
        before, step = self.rows, self.rules.step_ms
        gone: dict[int, list[str]] = {}
        freed = count = 0
        for last_ms, name in sorted((last_ms_of(packed), name) for name, packed in self._packed.items()):
            if freed >= rows:
                break
            freed += _rows_of(self._packed.pop(name))
            gone.setdefault(last_ms - last_ms % step, []).append(name)
            count += 1
        self._packed_rows -= freed
        for start, names in gone.items():
            self._forgotten.add(start, names)
        dropped_conversations.labels(self.tenant).inc(count)
        return before - self.rows

    @property
    def can_forget(self) -> bool:
        """Whether :meth:`forget_interval` may: the interval that closed last, and the open ones, stay."""
        return self._next_horizon <= self.closed_ms - self.rules.step_ms

    @property
    def _next_horizon(self) -> int:
        oldest = min((key[2] for key in self.cells), default=self._horizon_of(self.closed_ms))
        return max(oldest, self.horizon_ms) + self.rules.step_ms

    def forget_interval(self) -> int:
        """Forget the oldest interval early, since there is no room. As for :meth:`forget`, changes must be published.

        Returns:
            How many rows went.
        """
        before = self.rows
        if self.can_forget:
            self._move_horizon(self._next_horizon, self.closed_ms)
        return before - self.rows

    def drop_open(self, rows: int) -> int:
        """Forget conversations whose end was not seen, since nothing else is left: first those that are nowhere.

        Args:
            rows: How many have to go.

        Returns:
            How many went.
        """
        before, freed = self.rows, 0
        names: list[str] = []
        ones = self._conversations
        for name in sorted(ones, key=lambda name: (ones[name].place is not None, ones[name].last_ms)):
            if freed >= rows:
                break
            freed += len(ones[name])
            names.append(name)
        if names:
            log.error("conversations that go on are forgotten, live figures are wrong: raise wfm.max_rows",
                      tenant=self.tenant, conversations=len(names))  # fmt: skip
            dropped_open.labels(self.tenant).inc(len(names))
            self._drop(names)
        return before - self.rows

    def _drop(self, names: list[str]) -> None:
        for name in names:
            conversation = self._conversations.pop(name)
            self._unmeasured.pop(name, None)
            self._fact_rows -= len(conversation)
            self._move(name, conversation.place, None)

    # State is kept and found again

    def dump(self) -> Iterator[list[Any]]:
        """Everything that is to be known, in small pieces for JSON."""
        for name, packed in self._packed.items():
            yield ["ended", name, b64encode(packed).decode()]
        for start, state in self._forgotten.dump():
            yield ["forgotten", start, state]
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
            elif kind == "forgotten":
                self._forgotten.load(name, state)
            elif kind == "ended":
                self._pack(name, b64decode(state))
            elif kind == "conversation":
                self._conversations[name] = conversation = Conversation.load(state)
                self._fact_rows += len(conversation)
                if conversation.is_over:
                    self._ended.add(name)
        if not same_rules:
            self._cut_anew()
            return
        for name, conversation in self._conversations.items():
            conversation.measure(self.rules)  # its parts are in the cells, its legs with the agents
            self._move(name, None, conversation.place)

    def _cut_anew(self) -> None:
        """The rules changed: figures are what is kept of the conversations."""
        for agent in self.agents.values():
            agent.handled.clear()
        for name, packed in self._packed.items():
            self._conversations[name] = conversation = Conversation.load(orjson.loads(json_of(packed)))
            self._fact_rows += len(conversation)
        self._packed.clear()
        self._packed_rows = 0
        self._unmeasured.update(self._conversations)
        self.measure()

    def touch_all(self) -> None:
        """Everything is to be published anew."""
        self.changes.queues.update(self.queues)
        self.changes.cells.update(self.cells)
        self.changes.agents.update(self.agents)
        for name in self.agents:
            self._touch_agent(name, self.horizon_ms or self.closed_ms - self.limits.keep_ms, self.closed_ms)


def _rows_of(packed: bytes) -> int:
    return 1 + len(packed) // _ROW_BYTES
