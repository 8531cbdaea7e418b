"""Walks through a tenant's dead letters: those selected, and a count of those left alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing

from confluent_kafka import Message

from streaming.bus_window import MARGIN
from streaming.deadletter import described, headers_of
from streaming.instants import to_ms
from streaming.reprocess.again import Letter
from streaming.reprocess.batch import Found
from streaming.reprocess.kinds import native_type
from streaming.reprocess.memory import Memory
from streaming.reprocess.selection import Left, Selection
from streaming.settings import Tenant
from streaming.topic_reader import Place, Span, TopicReader


class Scan:
    """One walk from the start of the selection to the end of the moment it begins.

    Attributes:
        read: Dead letters looked at.
        left: Those left alone, by why.

    Args:
        reader: Used by nobody else meanwhile.
        tenant: Whose dead letters.
        selection: Which of them.
        memory: What earlier replays did.
        asks_again: Stages whose values are no messages.
        now_ms: Against which due times are measured, epoch ms.
    """

    def __init__(
        self,
        reader: TopicReader,
        tenant: Tenant,
        selection: Selection,
        memory: Memory,
        *,
        asks_again: frozenset[str],
        now_ms: int,
    ) -> None:
        self.read = 0
        self.left: Counter[Left] = Counter()
        self._reader = reader
        self._tenant = tenant
        self._memory = memory
        self._judge = selection.judge(asks_again, now_ms)
        self._event_type = selection.wants_type(tenant.vendor)
        self._start_ms = 0 if selection.start is None else max(to_ms(selection.start - MARGIN), 0)
        self._with_parked = selection.include_parked

    def letters(self) -> Generator[Found]:
        """The selected ones, each partition's in order.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        spans = self._reader.published_since(self._tenant.dlq_topic, self._start_ms)
        before = dict.fromkeys(spans, -1)
        with closing(self._reader.read({place: self._open(place, span) for place, span in spans.items()})) as batches:
            for messages in batches:
                self.read += len(messages)
                for message in messages:
                    place, offset = Place(message.topic() or "", message.partition() or 0), message.offset() or 0
                    is_done, is_parked = self._memory.knows(place.partition, offset)
                    if is_done:
                        why: Left | None = Left.REPLAYED
                    elif is_parked and not self._with_parked:
                        why = Left.PARKED
                    else:
                        letter = _letter(message)
                        why = self._judge(letter.said) or self._other_type(letter)
                    if why is None:
                        yield Found(place, offset, before[place], letter, is_parked)
                    else:
                        self.left[why] += 1
                    before[place] = offset

    def _open(self, place: Place, span: Span) -> Span:
        """The span without what at its beginning is done with, so that a long past is not read again and again."""
        done, parked = self._memory.done[place.partition], self._memory.parked[place.partition]
        first, seen = span.first, -1
        while first != seen:
            seen = first
            first = done.first_absent(first)
            if not self._with_parked:
                first = parked.first_absent(first)
        return Span(min(first, span.end), span.end)

    def _other_type(self, letter: Letter) -> Left | None:
        if self._event_type is None or native_type(self._tenant.vendor, letter.value) == self._event_type:
            return None
        return Left.NOT_SELECTED


def _letter(message: Message) -> Letter:
    headers = headers_of(message)
    said = described(headers, max(message.timestamp()[1], 0))
    return Letter(said, message.key(), message.value(), headers)
