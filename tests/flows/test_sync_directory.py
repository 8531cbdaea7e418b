"""The flow that brings names, against both simulators and a vendor that is away; without a Prefect server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from prefect.logging import disable_run_logger
from tenacity import wait_none

import flows.sync_directory as module
from flows.sync_directory import DirectoryFailedError, sync_directory
from streaming.errors import ConfigurationError
from streaming.settings import load_settings
from tests.devstack.simulators.support import CLIENT, simulator
from tests.truth.trace_rows import call, write_trace
from warehouse.engine import Warehouse, reader

ROWS = [
    call(exit_at="10:00:00", ivr=10, wait=17, talk=54, call_id="1", type="PS", server="ANAT"),
    call(exit_at="10:05:00", ivr=10, wait=30, outcome="HANG", call_id="2", type="NW", server="NO_SERVER"),
    call(line="AA0201", exit_at="10:06:00", ivr=10, wait=5, talk=9, call_id="3", type="QQ", server="MICHAL"),
]


def _tenant(vendor: str, name: str, url: str, more: str) -> str:
    token = "/login/oauth/token" if vendor == "genesys" else "/auth/token"
    return (
        f'[[tenants]]\nvendor = "{vendor}"\ntenant_id = "{name}"\n[tenants.connection]\n'
        f'token_url = "{url}{token}"\napi_url = "{url}"\n'
        f'client_id = "{CLIENT[0]}"\nclient_secret = "{CLIENT[1]}"\n{more}\n'
    )


def test_one_vendor_that_is_away_does_not_keep_the_others_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "ccaas.toml"
    monkeypatch.setenv("CCAAS_CONFIG", str(config))
    monkeypatch.setattr("streaming.rest._MAX_BACKOFF_S", 0.01)
    monkeypatch.setattr(module._sync.retry, "wait", wait_none())
    monkeypatch.setattr(module, "run_id", lambda: "run")
    shown: dict[str, list[dict[str, Any]]] = {}
    monkeypatch.setattr(module, "show_table", shown.__setitem__)
    webhooks = 'webhook_tokens = ["token-of-16-chars"]\nsignature = "hmac"\nhmac_secret = "hmac-secret-0001"'
    trace = write_trace(tmp_path / "trace.tsv", ROWS)
    with simulator("genesys", tmp_path, trace) as north, simulator("cxone", tmp_path, trace) as south:
        config.write_text(
            f'data_dir = "{tmp_path}"\n'
            + _tenant("genesys", "north", north.url, f'stream_url = "{north.url}/stream"')
            + _tenant("genesys", "away", "http://127.0.0.1:1", 'stream_url = "http://127.0.0.1:1/stream"')
            + _tenant("cxone", "south", south.url, webhooks)
        )
        with disable_run_logger():
            with pytest.raises(DirectoryFailedError, match=r"1 of 3 tenants not synchronised: genesys/away: .*:1"):
                sync_directory.fn()
            assert sync_directory.fn("south") == {"cxone/south": 2}
            with pytest.raises(ConfigurationError, match=r"no 'nobody'; there are genesys/north, .*, cxone/south"):
                sync_directory.fn("nobody")
    assert [(row["tenant"], row["queues listed"], row["agents active now"]) for row in shown["directory"]] == [
        ("south", 1, 1)
    ]
    with reader(Warehouse.from_settings(load_settings())) as connection:
        queues = connection.execute(
            sa.text("SELECT tenant_id, queue_id, name, media_type, division FROM queues ORDER BY tenant_id, queue_id")
        ).all()
        agents = connection.execute(
            sa.text("SELECT tenant_id, agent_id, name, team FROM agents ORDER BY tenant_id")
        ).all()
    assert [tuple(row) for row in queues] == [
        ("north", "NW", "Prospective customers", None, "Retail banking"),
        ("north", "PS", "Regular activity", None, "Retail banking"),
        ("south", "QQ", "QQ", "VOICE", "Retail banking"),
    ]
    assert [tuple(row) for row in agents] == [
        ("north", "ANAT", "ANAT", None),
        ("south", "MICHAL", "Michal", "Telephone centre"),
    ]
