"""Schema registry: registration under FULL compatibility, versions, and schemas by id."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import structlog
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from schemas.canonical import AVRO_DIR, SUBJECT, latest_schema, schema_versions
from schemas.codec import Decoder, Encoder
from schemas.compatibility import core_problems, full_problems
from schemas.promoted import promoted_fields, with_promoted
from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.settings import RegistrySettings

log = structlog.get_logger()
T = TypeVar("T")

_CONFLICT = 409
_NOT_FOUND = 404
_INVALID = 422
# The client's default is to wait for ever, and a promotion asks while it holds the warehouse's lock.
_TIMEOUT_S = 10
# Each lost race is another process's registration.
_RACES = 10


class IncompatibleSchemaError(CcaasError):
    """A schema is not FULL compatible with one that is in use."""


class Registry:
    """The registry as this platform uses it. Thread-safe.

    Args:
        settings: Address and client properties.
    """

    def __init__(self, settings: RegistrySettings) -> None:
        self._client = SchemaRegistryClient({"timeout": _TIMEOUT_S, **settings.client_config()})
        self._url = settings.url
        self.folder: Path = settings.schema_dir or AVRO_DIR
        """The project's versions."""
        # A version never changes: text and id by number.
        self._versions: dict[int, tuple[str, int]] = {}
        self._usable: dict[int, tuple[str, int]] = {}
        self._judged: set[int] = set()

    def close(self) -> None:
        """Let go of the connection; decoders made here can learn no further schema."""
        self._client.__exit__(None, None, None)  # type: ignore[no-untyped-call]

    def register(self, schema: str) -> int:
        """Register a version of the canonical event, FULL compatible; the same text again gives the same id.

        Returns:
            The schema's id.

        Raises:
            IncompatibleSchemaError: the registry answers 409.
            ConfigurationError: it answers 422, the text is no schema to it.
            ServiceUnavailableError: it can't be reached or answers 5xx.
        """
        try:
            self._ask(self._set_full)
            return self._register(schema)
        except SchemaRegistryError as error:
            if error.http_status_code == _CONFLICT:
                msg = f"{SUBJECT}: not FULL compatible: {error.error_message}"
                raise IncompatibleSchemaError(msg) from None
            if error.http_status_code == _INVALID:
                msg = f"{SUBJECT}: no schema to the registry: {error.error_message}"
                raise ConfigurationError(msg) from None
            raise self._unavailable(error) from None

    def _register(self, schema: str) -> int:
        """Register, also if another process does so at once.

        Apicurio refuses all but one that make the first version, with the 409 of an incompatible schema; its check
        tells the two apart.
        """
        races = 0
        while True:
            try:
                return int(self._ask(lambda: self._client.register_schema(SUBJECT, Schema(schema, "AVRO"))))
            except SchemaRegistryError as error:
                races += 1
                if error.http_status_code != _CONFLICT or races > _RACES or not self._passes(schema):
                    raise

    def _set_full(self) -> None:
        """Set the subject's rule. Of two processes that make it at once Apicurio tells one that it is there: 409."""
        try:
            self._client.set_compatibility(SUBJECT, level="FULL")
        except SchemaRegistryError as error:
            if error.http_status_code != _CONFLICT or self._client.get_compatibility(SUBJECT) != "FULL":
                raise

    def versions(self) -> dict[int, str]:
        """The registered versions by number, ascending, as JSON text; empty if there are none.

        Raises:
            ServiceUnavailableError: the registry can't be reached.
        """
        return {number: text for number, (text, _) in self._registered().items()}

    def current(self) -> tuple[str, int]:
        """The schema that producers use: the newest one with every field that was ever promoted.

        A version that was registered without a promoted field, or with one that is retyped, is passed over: such a
        field is never removed and never changes. If none has all, one that has is registered, the folder's if possible.

        Returns:
            Its JSON text and its id.

        Raises:
            IncompatibleSchemaError: the registry refuses a version of the folder.
            ConfigurationError: a version of the folder is no canonical event's, or none of the registered is.
            ServiceUnavailableError: it can't be reached.
        """
        own, registered = schema_versions(self.folder), self._registered()
        if not registered:
            for text in own.values():
                self.register(text)
            registered = self._registered()
        registered = self._usable_of(registered)
        texts = [text for text, _ in registered.values()] + list(own.values())
        # The first meaning of a name stays.
        every = set({field.name: field for text in reversed(texts) for field in promoted_fields(text)}.values())
        for text, schema_id in reversed(registered.values()):
            if every <= set(promoted_fields(text)):
                return text, schema_id
        for text in reversed(own.values()):
            if every <= set(promoted_fields(text)):
                return text, self.register(text)
        if not registered:
            msg = f"{SUBJECT}: no registered version is one of a canonical event; delete those at the registry"
            raise ConfigurationError(msg)
        # Versions were registered past each other: one with the fields of all of them is FULL compatible with each.
        text, schema_id = registered[max(registered)]
        try:
            together = with_promoted(text, sorted(every - set(promoted_fields(text))))
            return together, self.register(together)
        except (ConfigurationError, IncompatibleSchemaError) as error:
            log.error("the newest schema is used although it lacks promoted fields", error=str(error))
            return text, schema_id

    def check(self, schema: str) -> None:
        """Whether a schema may become the next version: core, every version of the folder and of the registry.

        Raises:
            IncompatibleSchemaError: naming the versions and what is wrong.
            ConfigurationError: it is no Avro schema.
            ServiceUnavailableError: the registry can't be reached.
        """
        problems = core_problems(schema)
        for where, versions in (("of the project", schema_versions(self.folder)), ("registered", self.versions())):
            for number, text in versions.items():
                problems += [f"version {number} {where}: {problem}" for problem in _problems(schema, text)]
        if not problems and self._registered() and not self._passes(schema):
            problems = ["the registry's own check refuses it"]
        if problems:
            msg = f"{'; '.join(problems)}. Give the field another name, or delete a version that nobody uses"
            raise IncompatibleSchemaError(msg)

    def schema_of(self, schema_id: int) -> str:
        """A registered schema's JSON text.

        Raises:
            KeyError: no such id.
            ServiceUnavailableError: the registry can't be reached.
        """
        try:
            text = self._ask(lambda: self._client.get_schema(schema_id).schema_str)
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                raise KeyError(schema_id) from None
            raise self._unavailable(error) from None
        if text is None:
            raise KeyError(schema_id)
        return str(text)

    def encoder(self) -> Encoder:
        """An encoder under the newest schema, see :meth:`current`."""
        return Encoder(*self.current())

    def decoder(self, *, as_written: bool = False) -> Decoder:
        """A decoder.

        Args:
            as_written: Into each event as its writer wrote it, promoted fields included; else into the project's newest
                schema.
        """
        return Decoder(None if as_written else latest_schema(self.folder), self.schema_of)

    def _registered(self) -> dict[int, tuple[str, int]]:
        """Text and id by number, ascending."""
        try:
            numbers = self._ask(lambda: self._client.get_versions(SUBJECT))
            for number in numbers:
                if number not in self._versions:
                    found = self._ask(lambda: self._client.get_version(SUBJECT, number))  # noqa: B023 (called at once)
                    self._versions[number] = (str(found.schema.schema_str), int(found.schema_id or 0))
        except SchemaRegistryError as error:
            if error.http_status_code == _NOT_FOUND:
                return {}
            raise self._unavailable(error) from None
        return {number: self._versions[number] for number in sorted(numbers)}

    def _usable_of(self, registered: dict[int, tuple[str, int]]) -> dict[int, tuple[str, int]]:
        """Versions under which events can be written and every older one's readers go on; said once of the others."""
        if registered.keys() != self._judged:
            self._usable = {}
            for number, version in registered.items():
                if problems := _stands_against(version[0], [text for text, _ in self._usable.values()]):
                    log.error("a registered version is passed over", version=number, problems=problems)
                else:
                    self._usable[number] = version
            self._judged = set(registered)
        return self._usable

    def _passes(self, schema: str) -> bool:
        try:
            return self._ask(lambda: bool(self._client.test_compatibility(SUBJECT, Schema(schema, "AVRO"))))
        except SchemaRegistryError as error:
            raise self._unavailable(error) from None

    def _ask(self, request: Callable[[], T]) -> T:
        """A request's result.

        Raises:
            SchemaRegistryError: the registry answered with an error.
            ServiceUnavailableError: it did not answer.
        """
        try:
            return request()
        except SchemaRegistryError:
            raise
        except Exception as error:  # noqa: BLE001 (its HTTP library is the client's own matter, and changes)
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> CcaasError:
        status = getattr(error, "http_status_code", None)
        if status in (401, 403):
            msg = f"schema registry {self._url} refuses the credentials ({status}): mend registry.client"
            return ConfigurationError(msg)
        return ServiceUnavailableError(f"schema registry {self._url}: {type(error).__name__}: {error}")


def _stands_against(schema: str, older: list[str]) -> list[str]:
    """What keeps a registered schema from being used after older ones; empty if nothing."""
    try:
        if problems := core_problems(schema):
            return problems
    except ConfigurationError as error:
        return [str(error)]
    known = {field.name: field for text in older for field in promoted_fields(text)}
    changed = [field.name for field in promoted_fields(schema) if known.get(field.name, field) != field]
    problems = [f"promoted field {name} has another key or type than before" for name in changed]
    return problems + [problem for text in older for problem in full_problems(schema, text)]


def _problems(schema: str, other: str) -> list[str]:
    """As :func:`full_problems`, of a version that somebody registered and that may be no schema at all."""
    try:
        return full_problems(schema, other)
    except ConfigurationError as error:
        return [str(error)]
