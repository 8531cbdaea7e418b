"""What a Genesys tenant's ``connection`` section holds."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, SecretStr

from streaming.settings import HttpAddress

VENDOR = "genesys"


class GenesysConnection(BaseModel):
    """Endpoints and credentials of one Genesys organisation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_url: HttpAddress
    stream_url: HttpAddress
    client_id: Annotated[str, Field(min_length=1)]
    client_secret: SecretStr
    streams: Annotated[tuple[str, ...], Field(min_length=1)] = ("conversation", "routing", "interaction")
    # No byte for so long, not even a heartbeat comment: the stream is half-dead and is opened anew.
    heartbeat_timeout_seconds: PositiveFloat = 30
