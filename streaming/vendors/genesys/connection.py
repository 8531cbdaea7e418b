"""What a Genesys tenant's ``connection`` section holds, and ``[vendors.genesys]``."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from streaming.settings import HttpAddress

VENDOR = "genesys"


StreamName = Literal["conversation", "routing", "interaction"]

KINDS: dict[StreamName, tuple[str, ...]] = {
    "conversation": ("customer.start", "customer.end", "acw"),
    "routing": ("acd.start", "acd.end"),
    "interaction": ("user.start", "user.end"),
}
"""What each stream brings of conversations; ``routing`` also brings agents' statuses."""


class GenesysConnection(BaseModel):
    """Endpoints and credentials of one Genesys organisation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_url: HttpAddress
    # REST API: what a stream did not bring is asked for here; channels of the WebSocket transport are made here.
    api_url: HttpAddress
    transport: Literal["sse", "websocket"] = "sse"
    stream_url: HttpAddress | None = None
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: Annotated[SecretStr, Field(min_length=1)]
    streams: Annotated[tuple[StreamName, ...], Field(min_length=1)] = ("conversation", "routing", "interaction")
    # No byte for so long, not even a heartbeat (the vendor's come every 30 s): the stream is half-dead and opened anew.
    heartbeat_timeout_seconds: PositiveFloat = 75
    # The vendor's limit of REST requests; the ingest, the completeness check and a backfill share it.
    rest_requests_per_minute: PositiveFloat = 300
    # A details query finds conversations that began on a day its interval touches: one may run for so long.
    longest_conversation_hours: PositiveFloat = 24
    # A WebSocket channel is replaced before the vendor ends it after 24 h.
    channel_renewal_seconds: PositiveFloat = 23 * 3600

    @model_validator(mode="after")
    def _stream_has_an_address(self) -> Self:
        if self.transport == "sse" and self.stream_url is None:
            msg = "transport = 'sse' needs stream_url"
            raise ValueError(msg)
        return self


class GenesysOptions(BaseModel):
    """What holds for all Genesys tenants of a process together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Attempts to open a stream, of all tenants: a rolling update at the vendor disconnects all at once.
    connect_attempts_per_second: PositiveFloat = 50
    concurrent_connect_attempts: PositiveInt = 100
    # Failed attempts after the first; then the tenant's circuit breaker opens (max.retries, retry.backoff.ms).
    max_retries: Annotated[int, Field(ge=0)] = 3
    retry_backoff_ms: PositiveInt = 2000
    # Every reconnect waits a random time in this span.
    reconnect_min_seconds: Annotated[float, Field(ge=0)] = 1
    reconnect_max_seconds: Annotated[float, Field(ge=0)] = 5
    # A stream that is open for so long counts as a success.
    stable_after_seconds: PositiveFloat = 10
    # The breaker lets one attempt through after so long; meanwhile REST is polled.
    breaker_reset_seconds: PositiveFloat = 30
    rest_poll_seconds: PositiveFloat = 15
    # The vendor's analytics lag behind its streams: a gap counts as filled once REST was asked so long after its end.
    rest_settle_seconds: Annotated[float, Field(ge=0)] = 900

    @model_validator(mode="after")
    def _span_is_one(self) -> Self:
        if self.reconnect_min_seconds > self.reconnect_max_seconds:
            msg = "reconnect_min_seconds is above reconnect_max_seconds"
            raise ValueError(msg)
        return self
