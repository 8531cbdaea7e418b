"""The real broker and registry, once a session; a configuration of its own for each test."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient

from devstack.python import python_environment
from devstack.stack import LocalStack
from streaming.settings import Settings
from tests.processes import free_port

# A file is one worker's (its tests share servers). The longest come first: at the end of a run only short ones are
# left, which all workers finish together.
_LONGEST = [
    "tests/flows/test_on_a_server.py",
    "tests/truth/test_consumers.py",
    "tests/streaming/test_genesys_outages.py",
    "tests/warehouse/test_quality_checks.py",
    "tests/flows/test_promote_metadata_fields.py",
    "tests/streaming/crm/test_members.py",
    "tests/truth/test_five_ways.py",
    "tests/streaming/wfm/test_members.py",
    "tests/streaming/crm/test_sync.py",
    "tests/streaming/crm/test_crm_faults.py",
    "tests/streaming/test_consumer.py",
    "tests/streaming/sink/test_sink.py",
    "tests/streaming/cxone/test_deferred.py",
    "tests/streaming/test_cxone_path.py",
    "tests/warehouse/test_load_intervals.py",
    "tests/streaming/cxone/test_receiver.py",
    "tests/warehouse/test_outages.py",
    "tests/streaming/cxone/test_reconcile.py",
    "tests/warehouse/test_failed_events.py",
    "tests/devstack/test_stack.py",
    "tests/devstack/simulators/test_contacts.py",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files to the front; the order within a file stays."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


# A busy machine is no failure.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """Kafka and schema registry."""
    with LocalStack(tmp_path_factory.mktemp("stack"), brief=True) as running:
        yield running


@pytest.fixture(scope="session")
def registry_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A stack of a registry alone."""
    with LocalStack(tmp_path_factory.mktemp("registry"), kafka_bootstrap="127.0.0.1:1") as running:
        yield running


@pytest.fixture
def own_registry(registry_alone: LocalStack) -> LocalStack:
    """A registry without schemas: what a test registers there changes no other test's encoder."""
    assert registry_alone.registry is not None
    registry_alone.registry.start()  # the test before may have ended it
    with SchemaRegistryClient({"url": registry_alone.registry_url}) as client:
        for subject in client.get_subjects():
            client.delete_subject(subject)
            client.delete_subject(subject, permanent=True)
    return registry_alone


class Platform:
    """A configuration whose tenants nobody else uses, on the session's stack.

    Attributes:
        registry: Settings of ``[registry]``; the session's by default.
    """

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.config = folder / "ccaas.toml"
        self.suffix = uuid.uuid4().hex[:8]
        self.ports = {name: free_port() for name in ("receiver", "genesys_ingest", "cxone_publisher", "analytics_sink")}
        self.vendors: dict[str, dict[str, Any]] = {}
        self.registry: dict[str, Any] = {"url": stack.registry_url}
        self._tenants: list[str] = []

    def add_tenant(self, vendor: str, name: str, partitions: int = 2, **connection: Any) -> str:
        """Add a tenant to the configuration; gives its full id."""
        tenant_id = f"{name}-{self.suffix}"
        lines = [f"{key} = {_toml(value)}" for key, value in connection.items()]
        self._tenants.append(
            f'[[tenants]]\ntenant_id = "{tenant_id}"\nvendor = "{vendor}"\npartitions = {partitions}\n'
            "[tenants.connection]\n" + "\n".join(lines)
        )
        self._write()
        return tenant_id

    def _write(self) -> None:
        ports = self.ports
        options = "".join(
            f"[vendors.{vendor}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
            for vendor, values in self.vendors.items()
        )
        self.config.write_text(
            f'data_dir = "{self.folder}"\n'
            f'[kafka]\nbootstrap_servers = "{self.stack.bootstrap_servers}"\n'
            "[registry]\n"
            + "".join(f"{key} = {_toml(value)}\n" for key, value in self.registry.items())
            + f"[receiver]\nport = {ports['receiver']}\n"
            "[spool]\nmin_free_disk_bytes = 0\n"
            # The group is shared with other tests on this broker: patterns match their topics too.
            "[sink]\nflush_seconds = 0.5\n"
            f'group = "sink-{self.suffix}"\ntopics = "^ccaaus\\\\.events\\\\..*-{self.suffix}$"\n'
            "[state]\nlease_ttl_seconds = 2\n"
            f"[health]\ngenesys_ingest = {ports['genesys_ingest']}\ncxone_publisher = {ports['cxone_publisher']}\n"
            f"analytics_sink = {ports['analytics_sink']}\n" + options + "\n".join(self._tenants),
            encoding="utf-8",
        )

    def environment(self) -> dict[str, str]:
        """Of a Python process that reads this configuration."""
        return {**python_environment(), "CCAAS_CONFIG": str(self.config)}

    def settings(self) -> Settings:
        """The settings as a service reads them."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CCAAS_CONFIG", str(self.config))
            from streaming.settings import load_settings  # noqa: PLC0415

            return load_settings()


def _toml(value: Any) -> str:
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.fixture
def platform(stack: LocalStack, tmp_path: Path) -> Platform:
    """See Platform."""
    return Platform(stack, tmp_path)
