"""Apache Kafka: one KRaft node that is broker and controller at once."""

from __future__ import annotations

import base64
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from devstack.child import ChildProcess, Probe
from devstack.java import java_command, java_environment
from devstack.ports import HOST, free_port, is_free
from devstack.processes import ProcessTable
from devstack.server import Server

_HEAP_MB = 400
_START_SECONDS = 90.0
_FORMAT_SECONDS = 60.0
_FIRST_COMPILER = "-XX:TieredStopAtLevel=1"

# What differs from Kafka's defaults, and why.
_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    # A topic that nobody configured is a fault we want to see.
    "auto.create.topics.enable": "false",
    # One broker.
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    # 50 partitions each by default: seconds of file creation at the first consumer and the first transaction.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    # Groups form at once instead of 3 s after their first member.
    "group.initial.rebalance.delay.ms": "0",
    # A restarted controller waits this long for a broker that was killed before it registers that broker anew; 9 s by
    # default. Shorter, a stall of a loaded machine would fence the broker.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.retention.hours": "168",
    # Dead letters hold originals of up to 16 MiB, plus headers and the batch's own bytes.
    "message.max.bytes": str(20 << 20),
    "replica.fetch.max.bytes": str(20 << 20),
    # The cleaner takes this from the heap at start, 128 MiB by default.
    "log.cleaner.dedupe.buffer.size": str(8 << 20),
}

_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{yyyy-MM-dd'T'HH:mm:ss.SSS'Z'}{UTC} %p %c{1} %m%n%throwable
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""


class KafkaBroker(Server):
    """A single-node cluster whose data outlives the process, also a killed one.

    Args:
        processes: who starts and ends it.
        folder: its data.
        jars: its class path.
        port: where it listens; by default a free one is chosen.
        brief: whether it lives for minutes, as in tests: without the second compiler, which pays off later, it takes a
            third less of the CPU.
    """

    label = "Kafka"
    remedy = "name another port for the local broker, or point kafka.bootstrap_servers to a cluster that runs"

    def __init__(
        self,
        processes: ProcessTable,
        folder: Path,
        jars: Sequence[Path],
        port: int | None = None,
        *,
        brief: bool = False,
    ) -> None:
        super().__init__(processes, folder, port)
        self._jars = tuple(jars)
        self._compilers = (_FIRST_COMPILER,) if brief else ()
        self._controller_port = free_port()

    @property
    def bootstrap_servers(self) -> str:
        """Address for clients."""
        return f"{HOST}:{self.port}"

    def _launch(self) -> ChildProcess:
        if not is_free(self._controller_port):
            self._controller_port = free_port()  # internal: nobody else knows it
        log4j = self._folder / "log4j2.properties"
        log4j.write_text(_LOG4J, encoding="utf-8")
        logging = f"-Dlog4j2.configurationFile={log4j}"
        environment = java_environment(CLASSPATH=os.pathsep.join(map(str, self._jars)))
        if not (self._data / "meta.properties").exists():
            self._format(logging, environment)
        return self._processes.start(
            "kafka",
            [
                *java_command(self._folder, _HEAP_MB, "-Xms128m", *self._compilers, logging),
                "kafka.Kafka",
                self._configure(self._data),
            ],
            environment=environment,
            folder=self._folder,
            probe=metadata_probe(self.bootstrap_servers),
            deadline_s=_START_SECONDS,
        )

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _format(self, logging: str, environment: dict[str, str]) -> None:
        """Make the storage of a new cluster, beside its place and then renamed: it is there wholly or not at all."""
        fresh = self._folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")
        # A process that lives for a second gains nothing from the second compiler.
        command = java_command(self._folder, _HEAP_MB, _FIRST_COMPILER, logging)
        arguments = ["format", f"--cluster-id={cluster_id}", f"--config={self._configure(fresh)}"]
        self._processes.run(
            "kafka-format",
            [*command, "kafka.tools.StorageTool", *arguments],
            environment=environment,
            deadline_s=_FORMAT_SECONDS,
        )
        shutil.rmtree(self._data, ignore_errors=True)
        fresh.rename(self._data)

    def _configure(self, data: Path) -> Path:
        properties = _PROPERTIES | {
            "listeners": f"PLAINTEXT://{self.bootstrap_servers},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap_servers}",
            "controller.quorum.voters": f"1@{HOST}:{self._controller_port}",
            "log.dirs": str(data),
        }
        path = self._folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()), encoding="utf-8")
        return path


def metadata_probe(bootstrap_servers: str) -> Probe:
    """A probe that is true once the cluster names a live broker: a port that accepts connections says less."""
    client: AdminClient | None = None

    def probe() -> bool:
        nonlocal client
        try:
            # log_level 0: until the broker listens, refused connections are what we expect.
            client = client or AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
            return bool(client.list_topics(timeout=1.0).brokers)
        except KafkaException:
            return False

    return probe
