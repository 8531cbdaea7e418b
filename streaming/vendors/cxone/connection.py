"""What a CXone tenant's ``connection`` section holds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveFloat, SecretStr, model_validator

from streaming.settings import HttpAddress

VENDOR = "cxone"

_LEAST_SECRET = 16


def _given(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value():
        msg = "is empty; give the client's secret"
        raise ValueError(msg)
    return secret


def _hard_to_guess(secret: SecretStr) -> SecretStr:
    """Whoever knows it may put events on the bus."""
    if len(secret.get_secret_value()) < _LEAST_SECRET:
        msg = f"has fewer than {_LEAST_SECRET} characters; make one with: openssl rand -hex 16"
        raise ValueError(msg)
    return secret


SharedSecret = Annotated[SecretStr, AfterValidator(_hard_to_guess)]
"""Chosen by us, told to the vendor."""


class CxoneConnection(BaseModel):
    """Endpoints and credentials of one CXone business unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_url: HttpAddress
    api_url: HttpAddress
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: Annotated[SecretStr, AfterValidator(_given)]
    # Where the vendor reaches this receiver, e.g. https://events.example.com; needed to register the webhook.
    webhook_base_url: HttpAddress | None = None
    # The registration's name at the vendor; together with the URL it says which one is ours.
    webhook_name: Annotated[str, Field(min_length=1, max_length=200)] = "ccaas-event-bus"
    # Bearer tokens that the webhooks may carry: the first is the one registered, the others are accepted while it
    # replaces them.
    webhook_tokens: Annotated[tuple[SharedSecret, ...], Field(min_length=1, max_length=4)]
    signature: Literal["jws", "hmac"] = "jws"
    # Key set that verifies JWS signatures (RFC 7517).
    jwks_url: HttpAddress | None = None
    hmac_secret: SharedSecret | None = None
    # A signature made longer ago, or further ahead, than this is a replay or a wrong clock.
    replay_window_seconds: PositiveFloat = 300
    # Unknown key ids may come from anybody who knows the URL: they cause at most one fetch in this time.
    unknown_key_seconds: PositiveFloat = 30
    # Keys that could not be fetched anew stay in force for so long.
    keys_ttl_hours: PositiveFloat = 72
    # Webhook requests a second that the tenant may send, in bursts of as many; above it 429.
    requests_per_second: PositiveFloat = 2_000
    # What was set aside and can't be verified or confirmed for so long becomes a dead letter.
    deferred_limit_hours: PositiveFloat = 72
    # The vendor's limit of REST requests.
    rest_requests_per_minute: PositiveFloat = 300
    # A contact's events are looked for on the bus from its start: one may run for so long.
    longest_contact_hours: PositiveFloat = 24
    agent_state_poll_seconds: PositiveFloat = 15
    # A poll looks so far back before its cursor: the vendor may record a status after it began.
    agent_state_look_back_seconds: Annotated[float, Field(ge=0)] = 120

    @model_validator(mode="after")
    def _scheme_is_complete(self) -> Self:
        if self.signature == "jws" and not self.jwks_url:
            msg = "signature = 'jws' needs jwks_url"
            raise ValueError(msg)
        if self.signature == "hmac" and self.hmac_secret is None:
            msg = "signature = 'hmac' needs hmac_secret"
            raise ValueError(msg)
        return self


class CxoneOptions(BaseModel):
    """What holds for all CXone tenants of a process together."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Share of the expected events that may be missing before an event is raised.
    alert_missing_share: Annotated[float, Field(ge=0, le=1)] = 0.02
