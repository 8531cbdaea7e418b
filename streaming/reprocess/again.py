"""A dead letter through the path on which it failed: events to publish, or why it failed again."""

from __future__ import annotations

from typing import NamedTuple

import orjson

from schemas.canonical import RECOVERED_KEY, CanonicalEvent
from schemas.codec import Decoder, Encoder
from streaming.deadletter import KAFKA, Described, Headers, dead_letter_headers, origin_of, original_headers
from streaming.errors import BadEventError
from streaming.publisher import MAX_VALUE_BYTES, RECEIVED_AT, TRANSPORT
from streaming.reprocess.fixups import FixUps
from streaming.reprocess.hook import VendorReplay
from streaming.reprocess.kinds import type_of
from streaming.settings import Tenant

RECOVERED = "replayed"
"""Value of the metadata key that says how the event came."""


class Letter(NamedTuple):
    """A record of the dead-letter topic."""

    said: Described
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


class Record(NamedTuple):
    """A record to be published."""

    key: bytes | None
    value: bytes | None
    headers: Headers


class Tried(NamedTuple):
    """What a dead letter became. Of an array some elements may be events and another bad."""

    events: list[Record]
    error: BadEventError | None
    event_type: str


class Again:
    """Tries dead letters of one tenant.

    Args:
        tenant: Whose.
        replay: The vendor's hook.
        fixups: Tried on what is JSON; the record's own bytes stay as they are.
        encoder: Of the events.
        decoder: Of what was on the events topic already.
    """

    def __init__(
        self, tenant: Tenant, replay: VendorReplay, fixups: FixUps, encoder: Encoder, decoder: Decoder
    ) -> None:
        self._vendor = tenant.vendor
        self._by_conversation = tenant.partition_key == "conversation_id"
        self._normalise = replay.normalise
        self._fixups = fixups
        self._encode = encoder.encode
        self._decoder = decoder

    def try_(self, letter: Letter) -> Tried:
        """Hot path: try one dead letter.

        Raises:
            RefusedError: a fix-up can't be done on it; it is to be left as it is.
            ServiceUnavailableError: the registry does not answer.
        """
        if letter.said.transport == KAFKA:
            return self._decoded(letter)
        try:
            document = orjson.loads(letter.value or b"")
        except orjson.JSONDecodeError as error:
            return Tried([], BadEventError(f"not JSON: {error}", reason="unparsable"), "")
        event_type = type_of(self._vendor, document)
        if self._fixups:
            self._fixups.apply(document)
        try:
            events, bad = self._normalise(letter.said, document)
        except BadEventError as error:
            return Tried([], error, event_type)
        headers: Headers = [
            (RECEIVED_AT, b"%d" % (letter.said.failed_ms * 1000)),
            (TRANSPORT, letter.said.transport.encode()),
        ]
        records = []
        for event in events:
            event["metadata"][RECOVERED_KEY] = RECOVERED
            try:
                records.append(Record(self._key(event), self._encoded(event), headers))
            except BadEventError as error:
                bad = bad or error
        return Tried(records, bad, event_type)

    def _key(self, event: CanonicalEvent) -> bytes:
        key = event["event_id"]
        if self._by_conversation:
            key = event["payload"].get("conversation_id", key)
        return key.encode()

    def _encoded(self, event: CanonicalEvent) -> bytes:
        value = self._encode(event)
        if len(value) > MAX_VALUE_BYTES:
            msg = f"a record of {len(value)} bytes, more than {MAX_VALUE_BYTES}"
            raise BadEventError(msg, reason="too_large")
        return value

    def _decoded(self, letter: Letter) -> Tried:
        """What a consumer could not do: the same bytes go to the events topic again once they can be decoded."""
        try:
            self._decoder.decode(letter.value)
        except BadEventError as error:
            return Tried([], error, "")
        return Tried([Record(letter.key, letter.value, original_headers(letter.headers))], None, "")


def failed_again(letter: Letter, error: BadEventError) -> Record:
    """The dead letter written anew: its bytes unchanged, headers of the new failure.

    It keeps the stage, which says what its bytes are, and with it the place on Kafka where it failed first.
    """
    headers = dead_letter_headers(
        error,
        stage=letter.said.stage,
        transport=letter.said.transport,
        origin=origin_of(letter.headers),
        original=letter.headers,
        attempt=letter.said.attempt + 1,
    )
    return Record(letter.key, letter.value, headers)
