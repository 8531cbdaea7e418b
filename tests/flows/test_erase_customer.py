"""The flow that erases a caller's data, without a Prefect server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger

import flows.erase_customer as module
from flows.erase_customer import erase_customer
from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError
from streaming.lease import LeaseKeeper
from streaming.settings import Settings, load_settings
from streaming.sink.landing_lease import LEASE, landing_lease
from streaming.state import open_state
from tests.conftest import Platform
from tests.flows.shown import Shown
from tests.warehouse.events import land, numbered, queued
from warehouse import tables
from warehouse.engine import Warehouse, reader
from warehouse.load_events import load_events
from warehouse.schema import open_warehouse

ADDRESS = "+49 30 99887766"


@pytest.fixture
def tenant(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> str:
    tenant = platform.add_tenant("genesys", "bank")
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    monkeypatch.setenv("CCAAS_ERASURE__KEY", "0123456789abcdef" * 4)
    monkeypatch.setattr(module, "run_id", lambda: "run-1")
    return tenant


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Shown:
    shown = Shown()
    monkeypatch.setattr(module, "show_table", shown.table)
    return shown


def landed(settings: Settings) -> str:
    paths = settings.landing_dir.rglob("*.parquet")
    return "".join(str(pq.read_table(path, partitioning=None).to_pylist()) for path in paths)


def test_a_caller_is_counted_then_erased_and_never_shown(
    tenant: str, shown: Shown, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings()
    calls = numbered([queued("09:00:00", "c1", ani="tel:+493099887766"), queued("09:01:00", "c2", ani="+4930111")])
    land(settings.landing_dir, *[replace(call, tenant_id=tenant) for call in calls])
    with open_warehouse(settings) as warehouse:
        load_events(warehouse, run_id="r")
    file = tmp_path / "address.txt"
    file.write_text(f"{ADDRESS}\n")
    named: dict[str, Any] = {"tenant": f"genesys/{tenant}", "address_file": str(file)}
    with disable_run_logger():
        would = erase_customer.fn(**named)
        assert (would["events"], would["landing rows"]) == (1, 1)
        assert shown.tables["erase-customer"][0] == {"place": "conversations of the caller", "would lose something": 1}
        assert "93099887766" in landed(settings)
        assert erase_customer.fn(**named, dry_run=False, requested_by="ticket 7") == would
        # What the bus brings to the landing zone again, the daily run finds.
        land(settings.landing_dir, replace(calls[0], tenant_id=tenant, offset=9))
        assert erase_customer.fn(dry_run=False)["landing rows"] == 1
    assert "93099887766" not in landed(settings)
    assert "+4930111" in landed(settings)
    said = "".join(capfd.readouterr()) + str(shown.tables)
    assert "99887766" not in said.replace(" ", "")
    with open_warehouse(settings), reader(Warehouse.from_settings(settings)) as connection:
        audit = connection.execute(sa.select(tables.erasures)).mappings().one()
    assert (audit["run_id"], audit["requested_by"], audit["tenant_id"]) == ("run-1", "ticket 7", tenant)
    assert "99887766" not in str(audit)


def test_what_can_not_be_used_is_refused(tenant: str, shown: Shown, tmp_path: Path) -> None:
    with disable_run_logger():
        with pytest.raises(ConfigurationError, match="vendor/tenant_id, for example one of: genesys/bank-"):
            erase_customer.fn(tenant=tenant, conversation_ids=["c1"])
        with pytest.raises(ConfigurationError, match="nobody is named"):
            erase_customer.fn(tenant=f"genesys/{tenant}")
        with pytest.raises(ConfigurationError, match="give the tenant too"):
            erase_customer.fn(conversation_ids=["c1"])
        with pytest.raises(ConfigurationError, match="leave one out"):
            erase_customer.fn(tenant=f"genesys/{tenant}", address_secret="a", address_file="b")
        with pytest.raises(ConfigurationError, match=r"address_file: .* can't be read"):
            erase_customer.fn(tenant=f"genesys/{tenant}", address_file=str(tmp_path / "none"))
        broken = load_settings().landing_dir / "raw" / "dt=2026-01-01" / "0-1-x.parquet"
        broken.parent.mkdir(parents=True)
        broken.write_bytes(b"PAR1")
        with pytest.raises(CcaasError, match=r"1 landing files can't be read .* raw/dt=2026-01-01/0-1-x"):
            erase_customer.fn(tenant=f"genesys/{tenant}", conversation_ids=["c1"], dry_run=False)
    assert shown.tables["erase-customer"]


def test_while_files_are_compacted_nobody_rewrites_them(tenant: str) -> None:
    settings = load_settings()
    engine = open_state(settings.state_url)
    compaction = LeaseKeeper(engine, [LEASE], ttl=settings.state.lease_ttl_seconds)
    compaction.start()
    try:
        assert compaction.wait_for_any(10) == LEASE
        with (
            pytest.raises(ServiceUnavailableError, match="compaction, retention or erasure"),
            landing_lease(settings, 1),
        ):
            pass
    finally:
        compaction.close()
        engine.dispose()
    with landing_lease(settings, 10) as lease:
        assert lease.is_ours()
