"""What a simulator does wrong on request.

Every decision about an event depends only on the seed, on the kind of fault and on the event's place in the schedule,
so the same seed hits the same events at any speed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from streaming.instants import to_ms

_HIDING_SHARE = 1 / 3

Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Delay(_Part):
    """Events that go out late, by up to ``ms`` of simulated time."""

    share: Share
    ms: PositiveInt


class Reorder(_Part):
    """Events that up to ``places`` later ones overtake."""

    share: Share
    places: Annotated[int, Field(ge=1, le=1000)] = 5


class Fields(_Part):
    """Changes to messages. Paths are dotted; ``retype`` makes text a list of it, anything else its text.

    ``start`` and ``end`` limit them to events of that span of event time; ``rename`` gives a field another name in its
    place.
    """

    share: Share = 1
    add: dict[str, Any] = Field(default_factory=dict)
    remove: tuple[str, ...] = ()
    retype: tuple[str, ...] = ()
    rename: dict[str, str] = Field(default_factory=dict)
    start: AwareDatetime | None = None
    end: AwareDatetime | None = None

    def concerns(self, at_ms: int) -> bool:
        """Whether an event of that time, epoch ms, is within the span."""
        starts = self.start is None or at_ms >= to_ms(self.start)
        return starts and (self.end is None or at_ms < to_ms(self.end))

    def change(self, document: dict[str, Any]) -> None:
        """Change a message in place."""
        for path, value in self.add.items():
            node, leaf = _reach(document, path, make=True)
            if node is not None:
                node[leaf] = value
        for path in self.remove:
            node, leaf = _reach(document, path)
            if node is not None:
                node.pop(leaf, None)
        for path in self.retype:
            node, leaf = _reach(document, path)
            if node is not None and leaf in node:
                node[leaf] = [node[leaf]] if isinstance(node[leaf], str) else str(node[leaf])
        for path, name in self.rename.items():
            node, leaf = _reach(document, path)
            if node is not None and leaf in node:
                node[name] = node.pop(leaf)


class Refuse(_Part):
    """Answers of the simulator's own HTTP endpoints: a status for so long, or so often."""

    status: Annotated[int, Field(ge=400, le=599)]
    seconds: PositiveFloat | None = None
    requests: PositiveInt | None = None
    retry_after: Annotated[int, Field(ge=0)] | None = None
    path: str = "/"

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if (self.seconds is None) == (self.requests is None):
            msg = "give either seconds or requests"
            raise ValueError(msg)
        return self


class RotateKeys(_Part):
    """A new signing key from now on; the old one stays published for the overlap."""

    overlap_seconds: Annotated[float, Field(ge=0)] = 60


class Orders(_Part):
    """Body of ``POST /control/misbehave``.

    Done at once: ``disconnect``, ``refuse``, ``rotate_keys``, ``forget_cursors`` (every cursor given so far is unknown;
    who comes without one begins at the present end) and ``garbage`` (so many writes on the stream are preceded by
    malformed frames).

    The others stand until they are given anew: a share of 0, or ``null`` for a group, ends one. ``kinds`` limits them
    to native events of these names. ``pages`` ``shuffle``: the first row of a REST query's result comes and goes
    between its pages. ``jwks``: what the key endpoint answers. ``hold_at``: no event of that time or a later one goes
    out until the order ends.
    """

    seed: int = 0
    kinds: tuple[str, ...] | None = None
    drop: Share = 0
    duplicate: Share = 0
    delay: Delay | None = None
    reorder: Reorder | None = None
    fields: Fields | None = None
    wrong_key: Share = 0
    unknown_key: Share = 0
    pages: Literal["shuffle", "steady"] = "steady"
    jwks: Literal["good", "empty", "bad_algorithm", "down"] = "good"
    hold_at: AwareDatetime | None = None
    disconnect: Literal[True] | None = None
    refuse: Refuse | None = None
    rotate_keys: RotateKeys | None = None
    forget_cursors: Literal[True] | None = None
    garbage: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


AT_ONCE = frozenset({"disconnect", "refuse", "rotate_keys", "forget_cursors", "garbage"})
"""Orders that do not stand."""


class Misbehaviour:
    """The standing orders, and the decisions they lead to.

    Args:
        monotonic: Wall clock, s.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.orders = Orders()
        self._monotonic = monotonic
        self._refuse: Refuse | None = None
        self._refuse_until = 0.0
        self._refusals_left = 0
        self._pages = 0  # read since they are shuffled

    def obey(self, orders: Orders) -> None:
        """Take over what is given in ``orders``, leave the rest as it stands."""
        given = {name: getattr(orders, name) for name in orders.model_fields_set - AT_ONCE}
        self.orders = self.orders.model_copy(update=given)
        if "pages" in given:
            self._pages = 0
        if orders.refuse is not None:
            self._refuse = orders.refuse
            self._refuse_until = self._monotonic() + (orders.refuse.seconds or 0)
            self._refusals_left = orders.refuse.requests or 0

    def drops(self, kind: str, index: int) -> bool:
        """Whether the event is never sent."""
        return self._hits("drop", kind, index, self.orders.drop)

    def duplicates(self, kind: str, index: int) -> bool:
        """Whether it is sent twice."""
        return self._hits("duplicate", kind, index, self.orders.duplicate)

    def delay_ms(self, kind: str, index: int) -> int:
        """By how much simulated time it is late, ms."""
        delay = self.orders.delay
        if delay is None or not self._hits("delay", kind, index, delay.share):
            return 0
        return 1 + int(self._draw("delay.ms", index) * delay.ms)

    def places(self, kind: str, index: int) -> int:
        """How many later events overtake it."""
        reorder = self.orders.reorder
        if reorder is None or not self._hits("reorder", kind, index, reorder.share):
            return 0
        return 1 + int(self._draw("reorder.places", index) * reorder.places)

    def fields(self, kind: str, index: int, at_ms: int) -> Fields | None:
        """The changes to its message, if any."""
        fields = self.orders.fields
        if fields is None or not fields.concerns(at_ms):
            return None
        return fields if self._hits("fields", kind, index, fields.share) else None

    def held_ms(self, now_ms: int) -> int:
        """The time up to which events may go out now, epoch ms."""
        hold_at = self.orders.hold_at
        return now_ms if hold_at is None else min(now_ms, to_ms(hold_at) - 1)

    def signs_wrongly(self, kind: str, index: int) -> Literal["wrong", "unknown"] | None:
        """Whether it is signed with a key other than the one it names, or with one that was never published."""
        if self._hits("wrong_key", kind, index, self.orders.wrong_key):
            return "wrong"
        return "unknown" if self._hits("unknown_key", kind, index, self.orders.unknown_key) else None

    def hides_first_row(self) -> bool:
        """Whether a later page of a REST query is read while the result lacks its first row.

        So it is for the first page after the order, then for a third of them: who reads again sees other faults.
        """
        if self.orders.pages == "steady":
            return False
        self._pages += 1
        return self._pages == 1 or self._draw("pages", self._pages) < _HIDING_SHARE

    def refusal(self, path: str) -> Refuse | None:
        """The answer that a request to this path gets instead of the right one; counts it."""
        refuse = self._refuse
        if refuse is None or not path.startswith(refuse.path):
            return None
        if refuse.requests is not None:
            self._refusals_left -= 1
            if self._refusals_left <= 0:
                self._refuse = None
            return refuse
        if self._monotonic() < self._refuse_until:
            return refuse
        self._refuse = None
        return None

    def _hits(self, fault: str, kind: str, index: int, share: float) -> bool:
        if share <= 0 or (self.orders.kinds is not None and kind not in self.orders.kinds):
            return False
        return self._draw(fault, index) < share

    def _draw(self, fault: str, index: int) -> float:
        """A number in [0, 1) that belongs to this event and fault under the seed."""
        digest = blake2b(f"{self.orders.seed}:{fault}:{index}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def _reach(document: dict[str, Any], path: str, *, make: bool = False) -> tuple[dict[str, Any] | None, str]:
    """The object that holds the path's last part, None if there is none; and that part."""
    *parents, leaf = path.split(".")
    node: Any = document
    for part in parents:
        if make and isinstance(node, dict):
            node = node.setdefault(part, {})
        elif isinstance(node, dict):
            node = node.get(part)
    return (node if isinstance(node, dict) else None), leaf
