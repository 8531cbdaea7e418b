"""Schema registry: registration under FULL compatibility, and schemas by id."""

from __future__ import annotations

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.canonical import SUBJECT, latest_schema
from schemas.codec import Decoder, Encoder
from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.settings import RegistrySettings

_CONFLICT = 409
_NOT_FOUND = 404


class IncompatibleSchemaError(CcaasError):
    """The registry refuses a schema: it is not FULL compatible with the registered ones."""


class Registry:
    """The registry as this platform uses it. Thread-safe.

    Args:
        settings: Address and client properties.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._client = SchemaRegistryClient(settings.client_config())
        self._url = settings.url

    def close(self) -> None:
        """Let go of the connection; decoders made here can learn no further schema."""
        self._client.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def register(self, schema: str) -> int:
        """Register a version of the canonical event, FULL compatible; the same text again gives the same id.

        Returns:
            The schema's id.

        Raises:
            IncompatibleSchemaError: the registry answers 409.
            ServiceUnavailableError: it can't be reached or answers 5xx.
        """
        try:
            self._client.set_compatibility(SUBJECT, level="FULL")
            return int(self._client.register_schema(SUBJECT, Schema(schema, "AVRO")))
        except SchemaRegistryError as error:
            if error.http_status_code == _CONFLICT:
                msg = f"{SUBJECT}: not FULL compatible: {error.error_message}"
                raise IncompatibleSchemaError(msg) from None
            raise self._unavailable(error) from None
        except Exception as error:  # noqa: BLE001 (its HTTP library is the client's own matter, and changes)
            raise self._unavailable(error) from None

    def schema_of(self, schema_id: int) -> str:
        """A registered schema's JSON text.

        Raises:
            KeyError: no such id.
            ServiceUnavailableError: the registry can't be reached.
        """
        try:
            text = self._client.get_schema(schema_id).schema_str
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                raise KeyError(schema_id) from None
            raise self._unavailable(error) from None
        except Exception as error:  # noqa: BLE001 (its HTTP library is the client's own matter, and changes)
            raise self._unavailable(error) from None
        if text is None:
            raise KeyError(schema_id)
        return str(text)

    def encoder(self) -> Encoder:
        """An encoder under the project's newest schema, registered if it is not yet."""
        schema = latest_schema()
        return Encoder(schema, self.register(schema))

    def decoder(self) -> Decoder:
        """A decoder into the project's newest schema."""
        return Decoder(latest_schema(), self.schema_of)

    def _unavailable(self, error: Exception) -> CcaasError:
        status = getattr(error, "http_status_code", None)
        if status in (401, 403):
            msg = f"schema registry {self._url} refuses the credentials ({status}): mend registry.client"
            return ConfigurationError(msg)
        return ServiceUnavailableError(f"schema registry {self._url}: {type(error).__name__}: {error}")
