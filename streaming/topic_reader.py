"""Reads spans of offsets beside every consumer group, up to ends that are known beforehand."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import NamedTuple, Self

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_fixed

from streaming.errors import ServiceUnavailableError
from streaming.settings import KafkaSettings

log = structlog.get_logger()

TIMEOUT_S = 30.0
"""Longest wait for one answer of Kafka's."""

_BATCH = 1_000
# Records may be of 16 MiB each: what has been handed out at once stays near this.
_BATCH_BYTES = 16 * 1024 * 1024
# A partition that gives nothing for so long does not answer.
_SILENT_S = 60.0
_LEADERLESS = {KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE}
_ATTEMPTS = 10
_HOPELESS = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.UNKNOWN_TOPIC_OR_PART}


def _is_passing(error: BaseException) -> bool:
    """Whether a partition changes its leader: a moment later the client knows the new one."""
    return isinstance(error, KafkaException) and error.args[0].code() in _LEADERLESS


class Place(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Span(NamedTuple):
    """Offsets [first, end)."""

    first: int
    end: int


class TopicReader:
    """Reads committed records by offset. Commits nothing; memory holds one batch. Use it from one thread.

    Args:
        kafka: Address and client properties.
        name: Stands in the broker's logs as the group, which is never joined.
    """

    def __init__(self, kafka: KafkaSettings, name: str) -> None:
        self._batch = _BATCH // 10
        self.positions: dict[Place, int] = {}
        """Of the last :meth:`read`: before which offset each partition's records were handed out."""
        self._consumer = Consumer(
            {
                **kafka.client_config(),
                # Never joined: partitions are assigned by hand.
                "group.id": name,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                # A batch is handled in milliseconds; what is read ahead beyond that only takes memory.
                "queued.min.messages": 5 * _BATCH,
                "queued.max.messages.kbytes": 4 * 1024,
                "fetch.message.max.bytes": 512 * 1024,
                # A partition's end is known once a fetch found nothing for so long.
                "fetch.wait.max.ms": 50,
                # With the queue at its bound the default would pause for a second.
                "fetch.queue.backoff.ms": 5,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()

    def partitions(self, topic: str) -> list[Place]:
        """The topic's partitions; none if nobody has made it yet.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        try:
            found = self._consumer.list_topics(topic, timeout=TIMEOUT_S).topics[topic]
            if found.error is not None and found.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise KafkaException(found.error)
        except KafkaException as error:
            raise unavailable(topic, error) from None
        return [] if found.error is not None else [Place(topic, number) for number in found.partitions]

    def watermarks(self, place: Place) -> Span:
        """What a partition holds: from its first offset to its last stable one, before which no transaction is open.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        try:
            return Span(*self._watermarks(TopicPartition(*place)))
        except KafkaException as error:
            raise unavailable(place.topic, error) from None

    @retry(
        retry=retry_if_exception(_is_passing), stop=stop_after_attempt(_ATTEMPTS), wait=wait_fixed(0.5), reraise=True
    )
    def _watermarks(self, place: TopicPartition) -> tuple[int, int]:
        found = self._consumer.get_watermark_offsets(place, timeout=TIMEOUT_S)
        if found is None:  # so the client says that time is over, whatever its type hints say
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        low, high = found
        return low, high

    def published_since(self, topic: str, since_ms: int) -> dict[Place, Span]:
        """Spans from the first record published at an instant to the watermarks of now; empty ones are left out.

        Args:
            topic: The topic.
            since_ms: Kafka's record time, epoch ms.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        wanted = [TopicPartition(*place, since_ms) for place in self.partitions(topic)]
        spans: dict[Place, Span] = {}
        try:
            starts = self._consumer.offsets_for_times(wanted, timeout=TIMEOUT_S) if wanted else []
            for start in starts:
                if start.error is not None:
                    raise KafkaException(start.error)
        except KafkaException as error:
            raise unavailable(topic, error) from None
        for start in starts:
            place = Place(topic, start.partition)
            low, high = self.watermarks(place)
            begin = high if start.offset == OFFSET_END else max(start.offset, low)
            if begin < high:
                spans[place] = Span(begin, high)
        return spans

    def read(self, spans: Mapping[Place, Span]) -> Generator[list[Message]]:
        """The committed records of spans, in batches of at most 1,000 and some 16 MiB; :attr:`positions` follows.

        Raises:
            ServiceUnavailableError: Kafka does not answer.
        """
        self.positions = {place: span.first for place, span in spans.items()}
        ends = {place: span.end for place, span in spans.items() if span.first < span.end}
        if not ends:
            return
        wanted = [TopicPartition(*place, spans[place].first) for place in ends]
        self._consumer.assign(wanted)
        # A partition that an earlier read paused is still paused after being assigned anew.
        self._consumer.resume(wanted)
        try:
            heard = time.monotonic()
            while ends:
                some = next(iter(ends)).topic
                try:
                    got = self._consumer.consume(self._batch, 0.05)
                except KafkaException as error:
                    raise unavailable(some, error) from None
                if any(_is_life(message) for message in got):
                    heard = time.monotonic()
                elif time.monotonic() - heard > _SILENT_S:
                    msg = f"{some}: {len(ends)} partitions gave nothing for {_SILENT_S:.0f} s"
                    raise ServiceUnavailableError(msg)
                if batch := self._within(got, ends):
                    self._fit_batch(batch)
                    yield batch
        finally:
            self._consumer.unassign()

    def _within(self, got: list[Message], ends: dict[Place, int]) -> list[Message]:
        """The records that belong to the read; partitions that came to their end leave ``ends``."""
        batch: list[Message] = []
        over: set[Place] = set()
        for message in got:
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:
                # librdkafka goes on by itself after most; if it does not, silence ends the read.
                log.warning("reading Kafka", topic=message.topic(), error=error.str())
                if error.fatal() or error.code() in _HOPELESS:
                    raise unavailable(str(message.topic()), KafkaException(error))
                continue
            place, offset = Place(str(message.topic()), message.partition() or 0), message.offset() or 0
            end = ends.get(place)
            if end is None:
                continue
            if error is not None:
                # An aborted transaction or its marker may be the last before the watermark: no record comes.
                over.add(place)
                self.positions[place] = end
                continue
            if offset < end:
                batch.append(message)
                self.positions[place] = offset + 1
            if offset >= end - 1:
                over.add(place)
                self.positions[place] = end
        for place in over:
            del ends[place]
        if over and ends:
            self._consumer.pause([TopicPartition(*place) for place in over])
        return batch

    def _fit_batch(self, batch: list[Message]) -> None:
        """The next batch holds so many records that they have some 16 MiB, if they are like these."""
        size = sum(len(message) for message in batch)
        fitting = len(batch) * _BATCH_BYTES // max(size, 1)
        self._batch = max(1, min(_BATCH, 2 * self._batch, fitting))


def _is_life(message: Message) -> bool:
    """Whether a partition answered: errors may come for ever."""
    error = message.error()
    return error is None or error.code() == KafkaError._PARTITION_EOF


def unavailable(topic: str, error: KafkaException) -> ServiceUnavailableError:
    """Kafka's error about a topic, as the platform's."""
    return ServiceUnavailableError(f"{topic}: {error.args[0].str()}")
