"""Which dead letters a run replays, and why it leaves the others alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from streaming.deadletter import Described
from streaming.errors import ConfigurationError
from streaming.instants import HOUR_MS, to_ms
from streaming.reprocess.kinds import any_element, masked
from streaming.settings import Settings, Tenant

# Hours after the failure, by attempt; a failure that is written anew is kept by Kafka for 72 h or more.
_WAITS = (1, 4, 16, 64)

# Stage and reason of what nobody ever proved to be the vendor's.
_SIGNATURE, _UNTRUSTED = "signature", "untrusted"


class Left(StrEnum):
    """Why a dead letter was left where it is, untouched."""

    FOREIGN = "written by somebody else"
    NOT_SELECTED = "not selected"
    REPLAYED = "replayed before"
    PARKED = "parked: failed too often"
    UNTRUSTED = "never proven to be the vendor's"
    ASKED_AGAIN = "no vendor message: its source is asked again"
    NOT_DUE = "not due yet"
    REFUSED = "a fix-up can't be done"


def _some(value: object) -> object:
    """The Prefect UI gives an empty field as empty text."""
    return None if value == "" else value


Text = Annotated[str | None, BeforeValidator(_some)]


class Selection(BaseModel):
    """What is selected; what is None selects all.

    Attributes:
        vendor: Only tenants of this vendor.
        tenant: Only this tenant.
        stage: Step that failed, e.g. ``normalise``.
        reason: E.g. ``missing_field``.
        path: Field that failed, as in ``failed_events``; ``[3].contactId`` and ``[].contactId`` are the same.
        event_type: The vendor's name of the type, ids masked or not.
        start: Failures since then; aware, inclusive.
        end: Failures before; aware, exclusive.
        include_parked: Also what failed too often.
        include_untrusted: Also webhooks that nobody proved: whoever runs it vouches for them.
        due_only: Only what has waited long enough since its last failure: 1, 4, 16, then 64 hours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: Text = None
    tenant: Text = None
    stage: Text = None
    reason: Text = None
    path: Text = None
    event_type: Text = None
    start: datetime | None = None
    end: datetime | None = None
    include_parked: bool = False
    include_untrusted: bool = False
    due_only: bool = False

    @model_validator(mode="after")
    def _is_a_window(self) -> Self:
        for name, instant in (("start", self.start), ("end", self.end)):
            if instant is not None and instant.utcoffset() is None:
                msg = f"{name} is {instant.isoformat()} without a time zone: append Z or an offset"
                raise ValueError(msg)
        if self.start is not None and self.end is not None and self.start >= self.end:
            msg = f"start {self.start.isoformat()} is not before end {self.end.isoformat()}: give a later end"
            raise ValueError(msg)
        return self

    @classmethod
    def of(cls, **parameters: Any) -> Self:
        """A selection.

        Raises:
            ConfigurationError: naming the parameter.
        """
        try:
            return cls(**parameters)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'window'}: {fault['msg']}"
                for fault in error.errors(include_input=False, include_url=False)
            ]
            raise ConfigurationError("; ".join(faults)) from None

    def tenants(self, settings: Settings) -> tuple[Tenant, ...]:
        """The tenants whose dead letters are looked at.

        Raises:
            ConfigurationError: the settings know no such vendor or tenant.
        """
        if self.vendor is not None and not settings.tenants_of(self.vendor):
            known = ", ".join(sorted({tenant.vendor for tenant in settings.tenants})) or "none"
            msg = f"vendor: the settings have no tenant of {self.vendor!r}; vendors there: {known}"
            raise ConfigurationError(msg)
        chosen = tuple(
            tenant
            for tenant in settings.tenants
            if self.vendor in {None, tenant.vendor} and self.tenant in {None, tenant.tenant_id}
        )
        if self.tenant is not None and not chosen:
            of = f" of vendor {self.vendor!r}" if self.vendor else ""
            msg = f"tenant: the settings have no {self.tenant!r}{of}; see tenants in the settings file"
            raise ConfigurationError(msg)
        return chosen

    def judge(self, asks_again: frozenset[str], now_ms: int) -> Judge:
        """A test of dead letters' headers: gives why one is left alone, None for one to be replayed.

        Args:
            asks_again: Stages whose values are no vendor messages.
            now_ms: Against which due times are measured, epoch ms.
        """
        start_ms = -1 if self.start is None else to_ms(self.start)
        end_ms = 2**62 if self.end is None else to_ms(self.end)
        path = None if self.path is None else any_element(self.path)
        stage, reason = self.stage, self.reason
        with_untrusted, due_only = self.include_untrusted, self.due_only

        def judge(letter: Described) -> Left | None:
            if not letter.is_ours:
                return Left.FOREIGN
            if (
                not start_ms <= letter.failed_ms < end_ms
                or stage not in {None, letter.stage}
                or reason not in {None, letter.reason}
                or path not in {None, letter.path}
            ):
                return Left.NOT_SELECTED
            if not with_untrusted and (letter.stage == _SIGNATURE or letter.reason == _UNTRUSTED):
                return Left.UNTRUSTED
            if letter.stage in asks_again:
                return Left.ASKED_AGAIN
            if due_only and letter.failed_ms + due_after_ms(letter.attempt) > now_ms:
                return Left.NOT_DUE
            return None

        return judge

    def wants_type(self, vendor: str) -> str | None:
        """The vendor's name of the type, ids masked, if one is asked for."""
        return None if self.event_type is None else masked(vendor, self.event_type)


Judge = Callable[[Described], Left | None]


def due_after_ms(attempt: int) -> int:
    """How long after its failure what was tried so often is tried again by itself, ms."""
    return _WAITS[min(max(attempt, 1), len(_WAITS)) - 1] * HOUR_MS
