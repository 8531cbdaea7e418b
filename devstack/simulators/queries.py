"""Bodies of the Genesys analytics queries, and the pages of what they find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from devstack.simulators.instants import DAY_MS, interval
from devstack.simulators.misbehaviour import Misbehaviour

_MAX_DAYS = 31
_Row = TypeVar("_Row")


def _not_too_long(span: tuple[int, int]) -> tuple[int, int]:
    if span[1] - span[0] > _MAX_DAYS * DAY_MS:
        msg = f"longer than {_MAX_DAYS} days; ask for less at a time"
        raise ValueError(msg)
    return span


Interval = Annotated[tuple[int, int], BeforeValidator(lambda text: interval(str(text)))]
"""``begin/end`` in ISO 8601 as epoch ms, half-open."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Paging(_Part):
    """Which page; the first is 1."""

    size: Annotated[int, Field(alias="pageSize", ge=1, le=100)] = 25
    number: Annotated[int, Field(alias="pageNumber", ge=1)] = 1


class Predicate(_Part):
    """Whether a conversation's end lies in an interval, or is not known."""

    type: Literal["dimension"] = "dimension"
    dimension: Literal["conversationEnd"]
    operator: Literal["matches", "notExists"]
    value: Interval | None = None

    @model_validator(mode="after")
    def _matches_something(self) -> Self:
        if (self.operator == "matches") != (self.value is not None):
            msg = "matches needs a value, notExists has none"
            raise ValueError(msg)
        return self

    def holds(self, ended_ms: int | None) -> bool:
        """Whether it holds for a conversation that ended then (epoch ms; None: not yet)."""
        if self.operator == "notExists":
            return ended_ms is None
        return ended_ms is not None and self.value is not None and self.value[0] <= ended_ms < self.value[1]


class Filter(_Part):
    """Predicates of which one must hold."""

    type: Literal["or"]
    predicates: Annotated[tuple[Predicate, ...], Field(min_length=1, max_length=10)]

    def holds(self, ended_ms: int | None) -> bool:
        """See :meth:`Predicate.holds`."""
        return any(predicate.holds(ended_ms) for predicate in self.predicates)


class UsersQuery(_Part):
    """Body of the users details query."""

    interval: Annotated[Interval, AfterValidator(_not_too_long)]
    order: Literal["asc", "desc"] = "asc"
    paging: Paging = Paging()


class ConversationsQuery(UsersQuery):
    """Body of the conversations details query."""

    order_by: Annotated[Literal["conversationStart"], Field(alias="orderBy")] = "conversationStart"
    filters: Annotated[tuple[Filter, ...], Field(alias="conversationFilters", max_length=10)] = ()


class Pages:
    """Cuts pages out of what a query found.

    Args:
        misbehaviour: May change the result between two pages.
    """

    def __init__(self, misbehaviour: Misbehaviour) -> None:
        self._misbehaviour = misbehaviour

    def cut(self, rows: Sequence[_Row], skip: int, top: int) -> tuple[Sequence[_Row], int]:
        """A page and the number of all rows."""
        hidden = 1 if skip and rows and self._misbehaviour.hides_first_row() else 0
        return rows[skip + hidden : skip + hidden + top], len(rows) - hidden

    def numbered(self, rows: Sequence[_Row], paging: Paging) -> tuple[Sequence[_Row], int]:
        """The same by the number of the page."""
        return self.cut(rows, (paging.number - 1) * paging.size, paging.size)


def hits(name: str, page: list[dict[str, Any]], total: int) -> dict[str, Any]:
    """An analytics answer: a page beyond the end has no rows at all, as at the vendor."""
    return ({name: page} if page else {}) | {"totalHits": total}
