"""crm-sync on a real broker, with a simulated CRM as a process."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import structlog
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from tenacity import Retrying, retry, retry_if_exception_type, stop_after_delay, stop_when_event_set, wait_fixed

from devstack.simulators.crm_log import EffectLog, Entity
from schemas.canonical import CanonicalEvent, EventType, event_id, latest_schema
from schemas.codec import Encoder
from schemas.registry import Registry
from streaming.crm.fold import Change, State, fold
from streaming.crm.sync import run_crm_sync
from streaming.deadletter import headers_of
from streaming.errors import ServiceUnavailableError
from streaming.settings import Tenant, load_settings
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.kafka import _ends, read_all
from tests.processes import ServiceProcess, free_port, until

T0 = 1_700_000_000_000
"""Epoch ms of the events' beginning."""

_GENESYS: dict[str, Any] = {
    "token_url": "http://127.0.0.1:9/token", "api_url": "http://127.0.0.1:9", "stream_url": "http://127.0.0.1:9/stream",
    "client_id": "i", "client_secret": "s",
}  # fmt: skip


class Crm:
    """The simulator as a process.

    Attributes:
        port: Where it listens, also after being started again.
        file: Its effects.
    """

    def __init__(self, folder: Path, token: str = "s3cret") -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.file = folder / "crm.db"
        self._log = folder / "crm.log"
        self._command = [
            sys.executable, "-m", "devstack.simulators.crm", "--log", str(self.file), "--port", str(self.port),
            "--token", token,
        ]  # fmt: skip
        self._http = httpx.Client(base_url=self.url, timeout=10, trust_env=False)
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT)
        until(lambda: self._http.get("/control/status").status_code == 200, 20, self._log.read_text())

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self._http.close()
        self.process.terminate()
        self.process.wait(20)

    def misbehave(self, **orders: Any) -> None:
        self._http.post("/control/misbehave", json=orders).raise_for_status()

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get("/control/status").raise_for_status().json()
        return answer

    def keys(self) -> set[str]:
        with EffectLog(self.file) as log:
            return log.keys()

    def asked(self) -> dict[str, int]:
        with EffectLog(self.file) as log:
            return log.asked()

    def states(self) -> dict[Entity, dict[str, str]]:
        with EffectLog(self.file) as log:
            return log.states()


class _CrmPlatform(Platform):
    """A platform whose crm-sync members have health ports of their own."""

    def __init__(self, origin: Platform, crm: dict[str, Any]) -> None:
        self.crm = crm
        self.crm_ports = [free_port() for _ in range(3)]
        super().__init__(origin.stack, origin.folder)

    def config_of(self, member: int) -> Path:
        """A configuration file for each member: they differ in the health port only."""
        file = self.folder / f"member-{member}.toml"
        lines = [f"{key} = {orjson.dumps(value).decode()}" for key, value in self.crm.items()]
        topics = f'topics = "^ccaaus\\\\.events\\\\..*-{self.suffix}$"'
        section = "\n".join(["[crm]", f'group = "crm-{self.suffix}"', topics, *lines])
        text = self.config.read_text().replace("[health]\n", f"[health]\ncrm_sync = {self.crm_ports[member]}\n")
        file.write_text(text.replace("[state]\n", f"{section}\n[state]\n"))
        return file


class CrmPath:
    """A tenant's events, the members that read them, and what came of it.

    Args:
        origin: The session's stack.
        crm: The CRM.
        settings: Of the section ``crm``.
    """

    def __init__(self, origin: Platform, crm: Crm, partitions: int = 3, **settings: Any) -> None:
        # Longer than a busy machine takes for a call: what is told twice is told twice for a reason.
        patient = {"timeout_seconds": 15, "deadline_seconds": 20}
        self.crm = crm
        self.platform = _CrmPlatform(origin, {"url": crm.url, "token": "s3cret", **patient, **settings})
        tenant_id = self.platform.add_tenant("genesys", "crm", partitions, **_GENESYS)
        self.tenant = Tenant(tenant_id=tenant_id, vendor="genesys", partitions=partitions)
        self.settings = self.platform.settings()
        ensure_topics(self.settings.kafka, [self.tenant])
        with contextlib.closing(Registry(self.settings.registry)) as registry:
            self._encoder = Encoder(latest_schema(), registry.register(latest_schema()))
        kafka = self.settings.kafka.client_config()
        self._producer = Producer(kafka)
        # Asks for the group's offsets; it never joins.
        self._reader = Consumer({**kafka, "group.id": self.group, "isolation.level": "read_committed"})
        self.sent: list[CanonicalEvent] = []
        self.failed: Callable[[], BaseException | None] = lambda: None

    def close(self) -> None:
        self._reader.close()

    # Events

    def event(self, kind: EventType, conversation: int, at_s: float = 0, **payload: str) -> CanonicalEvent:
        """An event of a conversation (or agent), so many seconds after the beginning."""
        name = "agent_id" if kind is EventType.STATUS_CHANGED else "conversation_id"
        payload = {name: f"{name[0]}-{conversation}", **payload}
        timestamp = T0 + int(at_s * 1000)
        id_ = event_id("genesys", self.tenant.tenant_id, kind, timestamp, payload)
        return {
            "event_id": id_, "vendor": "genesys", "tenant_id": self.tenant.tenant_id, "timestamp": timestamp,
            "event_type": str(kind), "payload": payload, "metadata": {},
        }  # fmt: skip

    def life(self, conversation: int) -> list[CanonicalEvent]:
        """Six events of a conversation; several are of one second."""
        queue, agent, at = f"q-{conversation % 3}", f"a-{conversation % 5}", conversation % 100
        where = {"queue_id": queue, "agent_id": agent}
        return [
            self.event(EventType.STARTED, conversation, at, media_type="VOICE", ani=f"+1555{conversation:04}"),
            self.event(EventType.QUEUED, conversation, at, queue_id=queue),
            self.event(EventType.ASSIGNED, conversation, at + 5, **where, outcome="ANSWERED", wait_ms="5000"),
            self.event(EventType.HANDLED, conversation, at + 65, **where, talk_ms="60000", hold_ms="0"),
            self.event(EventType.ENDED, conversation, at + 65, end_reason="CLIENT"),
            self.event(EventType.WRAPUP, conversation, at + 80, **where, acw_ms="15000"),
        ]

    def lives(self, count: int, first: int = 0) -> list[CanonicalEvent]:
        """Six events each of so many conversations."""
        return [event for number in range(first, first + count) for event in self.life(number)]

    def encode(self, event: CanonicalEvent) -> bytes:
        return self._encoder.encode(event)

    def send(self, *events: CanonicalEvent, partition: int | None = None) -> None:
        """Publish events as the platform does: by event_id."""
        for event in events:
            self.send_raw(self.encode(event), event["event_id"].encode(), partition=partition)
            self.sent.append(event)
        self.settle()

    def send_raw(self, value: bytes | None, key: bytes | None = None, **more: Any) -> None:
        more = {name: what for name, what in more.items() if what is not None}
        self._producer.produce(self.tenant.events_topic, value, key, **more)
        self._producer.poll(0)

    def settle(self) -> None:
        assert self._producer.flush(30) == 0

    # Members

    @contextlib.contextmanager
    def member(
        self, ends_with: type[BaseException] | None = None, *, anew: bool = False
    ) -> Iterator[list[MutableMapping[str, Any]]]:
        """A member in a thread; gives what it logs. It ends with that error, if one is named, else when told to.

        With ``anew`` it is built anew while Kafka does not answer, as the deployment does.
        """
        stop = threading.Event()
        built_anew = Retrying(
            retry=retry_if_exception_type(ServiceUnavailableError if anew else ()),
            stop=stop_when_event_set(stop),
            wait=wait_fixed(0.5),
            reraise=True,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CCAAS_CONFIG", str(self.platform.config_of(0)))
            settings = load_settings()
        with structlog.testing.capture_logs() as logs, ThreadPoolExecutor(1) as thread:
            ended = thread.submit(built_anew, run_crm_sync, settings, stop)
            # A member that ends by itself stops the waiting for what it should have done.
            self.failed = lambda: ended.exception() if ended.done() else None
            try:
                yield logs
            finally:
                stop.set()
                failure = ended.exception(60)
                self.failed = lambda: None
            if ends_with is None and failure is not None:
                raise failure
            assert ends_with is None or isinstance(failure, ends_with)

    @contextlib.contextmanager
    def process(self, number: int = 0) -> Iterator[ServiceProcess]:
        """A member as a process."""
        process = ServiceProcess(
            "crm-sync",
            self.platform.config_of(number),
            self.platform.folder / f"crm-sync-{number}.log",
            f"http://127.0.0.1:{self.platform.crm_ports[number]}",
        )
        try:
            yield process.wait_alive()
        finally:
            process.stop()

    @property
    def group(self) -> str:
        return f"crm-{self.platform.suffix}"

    # What came of it

    def changes(self) -> list[Message]:
        """Committed state changes; none before a member made the topic."""
        return read_all(self.platform, self.tenant.topic("crm.state"))

    def letters(self) -> list[dict[str, bytes | None]]:
        """Headers of the dead letters."""
        return [dict(headers_of(message)) for message in read_all(self.platform, self.tenant.dlq_topic)]

    def wait_until_read(self, seconds: float = 60) -> None:
        """Until the group committed everything that lies on the topic."""
        self.until(lambda: self.lag() == 0, seconds, "every offset committed")

    def until(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        """Wait while the member runs."""

        def holds() -> object:
            failure = self.failed()
            assert failure is None, f"the member ended: {failure}"
            return condition()

        until(holds, seconds, what)

    # A broker that was stopped for a while may not lead a partition or a group for a moment.
    @retry(retry=retry_if_exception_type(KafkaException), stop=stop_after_delay(90), wait=wait_fixed(0.2), reraise=True)
    def lag(self) -> int:
        """Records of the topic that the group has not committed."""
        ends = _ends(self._reader, self.tenant.events_topic)
        places = [TopicPartition(self.tenant.events_topic, number) for number in ends]
        done = [max(0, place.offset) for place in self._reader.committed(places, timeout=5)]
        return sum(high for _, high in ends.values()) - sum(done)

    def assert_exactly_once(self, refused: Collection[str] = ()) -> None:
        """Each event has one effect and one state change, or one dead letter if the CRM refuses it.

        The CRM's states are the fold of the events, and of the state changes.
        """
        accepted = [event for event in self.sent if event["event_id"] not in refused]
        assert self.crm.keys() == {event["event_id"] for event in accepted}
        changes = self.changes()
        keys = sorted(message.key() or b"" for message in changes)
        expected = [Change.of(event) for event in accepted]
        assert keys == sorted(change.key for change in expected)
        wanted = plain(fold(expected))
        assert plain(fold(Change.read(message.value() or b"") for message in changes)) == wanted
        assert {tuple(entity): fields for entity, fields in self.crm.states().items()} == wanted
        if refused:
            letters = read_all(self.platform, self.tenant.dlq_topic)
            assert sorted((letter.key() or b"").decode() for letter in letters) == sorted(refused)


def plain(states: dict[Any, State]) -> dict[tuple[str, ...], dict[str, str]]:
    """States without versions."""
    return {tuple(entity): {name: said.value for name, said in state.items()} for entity, state in states.items()}
