"""The configuration that a replay writes, and simulators that are gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console

from devstack.errors import StackError
from devstack.python import loopback_unproxied, python_environment
from devstack.replay import CallReplay
from devstack.stack import LocalStack
from streaming.settings import Settings
from tests.truth.trace_rows import call, write_trace

PROXY = "http://127.0.0.1:1"


def test_a_replay_on_a_cluster_keeps_to_its_own_names_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, PROXY)
    monkeypatch.setenv("CCAAS_SINK__GROUP", "production")
    monkeypatch.setenv("CCAAS_KAFKA__CLIENT", '{"sasl.username": "production"}')
    trace = write_trace(tmp_path / "calls.tsv", [call(), call(line="AA0201")])
    with LocalStack(
        tmp_path / "stack",
        kafka_bootstrap="b1:9092,b2:9092",
        registry_url="http://127.0.0.1:1",
        console=Console(quiet=True),
    ) as stack:
        replay = CallReplay(
            stack,
            tmp_path / "platform",
            trace=trace,
            suffix="-x1",
            clients=({"sasl.password": SecretStr('a"b\\c€')}, {}),
            replication_factor=3,
        )
        replay.prepare()
        settings = replay.settings()
        assert (settings.sink.group, settings.crm.group, settings.wfm.group) == replay.groups
        assert replay.groups[0] == "analytics-sink-group-x1"
        assert settings.kafka.client_config() == {"bootstrap.servers": "b1:9092,b2:9092", "sasl.password": 'a"b\\c€'}
        assert settings.kafka.replication_factor == 3
        assert [(tenant.events_topic, tenant.dlq_topic) for tenant in settings.tenants] == [
            (vendor.events_topic, vendor.dlq_topic) for vendor in replay.vendors
        ]
        assert all(vendor.tenant_id.endswith("-x1") for vendor in replay.vendors)
        assert replay.status("genesys")["state"]  # not by the proxy

    with pytest.raises(StackError, match=r"genesys simulator does not answer .*simulator-genesys\.log"):
        replay.status("genesys")
    with pytest.raises(StackError, match="does not answer"):
        replay.begin(1)


def test_a_file_of_settings_is_read_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    force = tmp_path / "force.toml"
    force.write_text("[sink]\nslots = 3\n")
    monkeypatch.setenv("CCAAS_CONFIG", str(force))
    monkeypatch.setenv("CCAAS_SINK__FLUSH_ROWS", "7")
    other = tmp_path / "elsewhere" / "ccaas.toml"
    other.parent.mkdir()
    other.write_text('data_dir = "here"\n')
    settings = Settings.from_file(other)
    assert (settings.sink.slots, settings.sink.flush_rows) == (8, 50_000)
    assert settings.data_dir == other.parent / "here"


def test_children_get_no_settings_of_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CCAAS_CONFIG", "CCAAS_SINK__GROUP", "CCAAS_CACHE_DIR"):
        monkeypatch.setenv(name, "x")
    environment = python_environment()
    assert "CCAAS_CONFIG" not in environment
    assert "CCAAS_SINK__GROUP" not in environment
    assert environment["CCAAS_CACHE_DIR"] == "x"
    assert environment["NO_PROXY"] == environment["no_proxy"]


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({}, "127.0.0.1,localhost"),
        ({"NO_PROXY": ".corp, localhost"}, ".corp,localhost,127.0.0.1"),
        ({"no_proxy": "*"}, "*"),
    ],
)
def test_loopback_is_exempt_from_proxies_beside_what_is_exempt_already(named: dict[str, str], expected: str) -> None:
    assert loopback_unproxied(named) == {"NO_PROXY": expected, "no_proxy": expected}
