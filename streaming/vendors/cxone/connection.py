"""What a CXone tenant's ``connection`` section holds."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, SecretStr, model_validator

from streaming.settings import HttpAddress

VENDOR = "cxone"


class CxoneConnection(BaseModel):
    """Endpoints and credentials of one CXone business unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_url: HttpAddress
    api_url: HttpAddress
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr
    # Bearer tokens that the webhooks may carry: two while one replaces the other.
    webhook_tokens: Annotated[tuple[SecretStr, ...], Field(min_length=1, max_length=4)]
    signature: Literal["jws", "hmac"] = "jws"
    # Key set that verifies JWS signatures (RFC 7517).
    jwks_url: HttpAddress | None = None
    hmac_secret: SecretStr | None = None
    # A signature made longer ago, or further ahead, than this is a replay or a wrong clock.
    replay_window_seconds: PositiveFloat = 300
    # Unknown key ids may come from anybody who knows the URL: they cause at most one fetch in this time.
    unknown_key_seconds: PositiveFloat = 30
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
