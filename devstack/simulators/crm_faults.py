"""What the simulated CRM does wrong on request.

Every decision about a call depends only on the seed, the fault, the call's key and how often the key was asked.
"""

from __future__ import annotations

from collections import Counter, deque
from hashlib import blake2b
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Status = Annotated[int, Field(ge=200, le=599)]
Fault = Literal["stall", "refuse", "status", "fail_before", "garbage", "error_body", "fail_after"]


class Orders(BaseModel):
    """Body of ``POST /control/misbehave``; each stands until it is given anew.

    ``fail_before``: the share of calls that get 503 and have no effect; ``fail_after``: that have their effect and get
    no answer, since the connection is cut. ``garbage``: 200 and no JSON; ``error_body``: 200 and an error; neither has
    an effect. ``statuses``: the next calls get these, one each, without effect. ``retry_after``: header of every
    refusal, seconds or a date. ``latency_ms``: before every answer. ``stall``: calls are accepted and not answered
    until the order ends, then they get 503. ``refuse``: event ids that get ``refuse_status``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    fail_before: Share = 0
    fail_after: Share = 0
    garbage: Share = 0
    error_body: Share = 0
    statuses: tuple[Status, ...] = ()
    retry_after: str | None = None
    latency_ms: Annotated[float, Field(ge=0, le=600_000)] = 0
    stall: bool = False
    refuse: tuple[str, ...] = ()
    refuse_status: Annotated[int, Field(ge=400, le=599)] = 422


class Faults:
    """The standing orders, and the decisions they lead to.

    Args:
        seed: Until an order gives another.
        asked: How often each key was asked before.
    """

    def __init__(self, seed: int, asked: Counter[str]) -> None:
        self.orders = Orders(seed=seed)
        self._asked = asked
        self._statuses: deque[int] = deque()
        self._refused: frozenset[str] = frozenset()

    def obey(self, orders: Orders) -> None:
        """Take over what is given in ``orders``, leave the rest as it stands."""
        self.orders = self.orders.model_copy(update={name: getattr(orders, name) for name in orders.model_fields_set})
        if "statuses" in orders.model_fields_set:
            self._statuses = deque(orders.statuses)
        self._refused = frozenset(self.orders.refuse)

    def next(self, key: str) -> tuple[Fault | None, int]:
        """What goes wrong with this call, and the status of a refusal. Counts it."""
        attempt = self._asked[key] = self._asked[key] + 1
        orders = self.orders
        if orders.stall:
            return "stall", 503
        if key in self._refused:
            return "refuse", orders.refuse_status
        if self._statuses:
            return "status", self._statuses.popleft()
        shares: dict[Fault, float] = {
            "fail_before": orders.fail_before, "garbage": orders.garbage, "error_body": orders.error_body,
            "fail_after": orders.fail_after,
        }  # fmt: skip
        for fault, share in shares.items():
            if share > 0 and self._draw(fault, key, attempt) < share:
                return fault, 503
        return None, 200

    def _draw(self, fault: str, key: str, attempt: int) -> float:
        digest = blake2b(f"{self.orders.seed}:{fault}:{key}:{attempt}".encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53
