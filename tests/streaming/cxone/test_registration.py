"""Registration at the real simulator, and at a vendor that does not know a webhook again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows import cxone_register as flow_module
from streaming.errors import CcaasError, ConfigurationError
from streaming.settings import Tenant
from streaming.vendors.cxone.access import cxone_tenants
from streaming.vendors.cxone.registration import Outcome, Registered, register_all
from tests.conftest import Platform
from tests.devstack.simulators.support import CLIENT, Receiver, Simulator, simulator
from tests.truth.trace_rows import call, write_trace

WEBHOOKS = "/ic3api/v2/integrations/webhooks"
TENANT = "bank-south"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.tsv", [call(wait=17, talk=54, line="AA0201")])


@pytest.fixture
def sim(tmp_path: Path, trace: Path) -> Iterator[Simulator]:
    with simulator("cxone", tmp_path, trace) as made:
        yield made


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def connection(api: str, receiver: str | None, *tokens: str, **more: Any) -> dict[str, Any]:
    base = {} if receiver is None else {"webhook_base_url": receiver}
    return {
        "token_url": f"{api}/auth/token", "api_url": api, "client_id": CLIENT[0], "client_secret": CLIENT[1],
        "webhook_tokens": [token.ljust(16, "-") for token in tokens], "jwks_url": f"{api}/auth/jwks", **base, **more,
    }  # fmt: skip


def register(api: str, receiver: str | None, *tokens: str, **more: Any) -> Registered:
    tenant = Tenant(tenant_id=TENANT, vendor="cxone", connection=connection(api, receiver, *tokens, **more))
    (done,) = asyncio.run(register_all([tenant]))
    return done


def registrations(sim: Simulator) -> list[dict[str, Any]]:
    webhooks: list[dict[str, Any]] = sim.http.get(WEBHOOKS, headers=sim.bearer()).json()["webhooks"]
    return webhooks


def test_created_then_unchanged_then_updated_and_never_twice(sim: Simulator, receiver: Receiver) -> None:
    url = f"{receiver.url}/cxone/webhook/{TENANT}"
    made = register(sim.url, receiver.url, "t1")
    assert made == Registered(TENANT, url, Outcome.CREATED, 1)
    assert register(sim.url, receiver.url + "/", "t1").outcome is Outcome.UNCHANGED
    (found,) = registrations(sim)
    assert (found["name"], found["url"]) == ("ccaas-event-bus", url)
    assert found["events"] == sorted(["CALL_STARTED", "CALL_ENDED", "QUEUE_ENTERED", "AGENT_ASSIGNED"])
    assert found["retryPolicy"] == {"maxRetries": 5, "backoffMs": 1000}
    fewer = {
        "name": "ccaas-event-bus", "url": url, "events": ["CALL_ENDED"],
        "authentication": {"type": "bearer", "token": "x"},
    }  # fmt: skip
    assert sim.http.post(WEBHOOKS, json=fewer, headers=sim.bearer()).status_code == 200
    assert register(sim.url, receiver.url, "t1").outcome is Outcome.UPDATED
    assert registrations(sim) == [found]


def test_a_token_is_rotated_while_both_are_accepted(sim: Simulator, receiver: Receiver) -> None:
    register(sim.url, receiver.url, "old")
    rotated = register(sim.url, receiver.url, "new", "old")
    assert (rotated.tokens, len(registrations(sim))) == (2, 1)
    assert "remove the others" in rotated.advice
    sim.start()
    sim.wait_done()
    assert {request.headers["authorization"] for request in receiver.requests} == {"Bearer " + "new".ljust(16, "-")}
    assert len(receiver.requests) == 4


def test_a_registration_for_another_address_is_named(sim: Simulator, receiver: Receiver) -> None:
    register(sim.url, "http://127.0.0.1:9", "t")
    moved = register(sim.url, receiver.url, "t")
    assert moved.outcome is Outcome.CREATED
    assert moved.elsewhere == (f"http://127.0.0.1:9/cxone/webhook/{TENANT}",)
    other_name = register(sim.url, receiver.url, "t", webhook_name="other")
    assert (other_name.outcome, other_name.elsewhere) == (Outcome.CREATED, ())


def test_what_a_person_must_mend_is_named(sim: Simulator, tmp_path: Path, trace: Path) -> None:
    assert "webhook_base_url: missing" in str(register(sim.url, None, "t").error)
    wrong = register(sim.url, "http://127.0.0.1:9", "t", client_secret="wrong")
    assert "client_secret" in str(wrong.error)
    with simulator("cxone", tmp_path, trace, "--scopes", "event:read") as limited:
        assert "scope webhook:manage" in str(register(limited.url, "http://127.0.0.1:9", "t").error)


class Forgetful:
    """A vendor whose POST always makes one more."""

    def __init__(self) -> None:
        self.webhooks: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/auth/token":
                    self._answer({"access_token": "t"})
                    return
                made = {"id": f"w{len(outer.webhooks)}", **json.loads(body)}
                made.pop("authentication")
                outer.webhooks.append(made)
                self._answer(made)

            def do_GET(self) -> None:
                self._answer({"webhooks": outer.webhooks})

            def _answer(self, document: Any) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def forgetful() -> Iterator[Forgetful]:
    made = Forgetful()
    yield made
    made.close()


def test_two_of_ours_are_said_loudly(forgetful: Forgetful) -> None:
    assert register(forgetful.url, "http://127.0.0.1:9", "t").twins == ()
    again = register(forgetful.url, "http://127.0.0.1:9", "t")
    assert again.twins == ("w0", "w1")
    assert "remove all but one at the vendor: w0, w1; keep w1" in again.advice
    refused = register(forgetful.url, "http://127.0.0.1:9", "t")
    assert (refused.outcome, refused.twins) == (Outcome.FAILED, ("w0", "w1"))
    assert "nothing more is registered until then" in refused.advice
    assert len(forgetful.webhooks) == 2


def run_command(platform: Platform, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "ccaas", "cxone", "register", *arguments],
        env={"CCAAS_CONFIG": str(platform.config), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


class NoStack:
    """A configuration needs the addresses only."""

    bootstrap_servers = "127.0.0.1:1"
    registry_url = "http://127.0.0.1:1"


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(NoStack(), tmp_path)  # type: ignore[arg-type]


def test_the_command_shows_what_it_did_and_no_token(sim: Simulator, platform: Platform) -> None:
    good = platform.add_tenant("cxone", "south", **connection(sim.url, "http://127.0.0.1:9", "tok3n-new", "tok3n-old"))
    bad = platform.add_tenant("cxone", "west", **connection(sim.url, None, "tok3n-west"))
    ran = run_command(platform)
    assert ran.returncode == 2
    for text in (good, "created", "2", "remove the others", bad, "failed", "webhook_base_url"):
        assert text in ran.stdout
    assert "Traceback" not in ran.stderr
    assert "tok3n" not in ran.stdout + ran.stderr
    alone = run_command(platform, "--tenant", good)
    assert (alone.returncode, "unchanged" in alone.stdout) == (0, True)
    nobody = run_command(platform, "--tenant", "nobody")
    assert nobody.returncode == 2
    assert f"there are {good}, {bad}" in nobody.stderr


def test_the_flow_registers_all_and_fails_for_those_that_could_not(
    sim: Simulator, platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = platform.add_tenant("cxone", "south", **connection(sim.url, "http://127.0.0.1:9", "tok3n"))
    monkeypatch.setenv("CCAAS_CONFIG", str(platform.config))
    shown: list[dict[str, Any]] = []
    # Artifacts need a Prefect server.
    monkeypatch.setattr(flow_module, "show_table", lambda _key, rows: shown.extend(rows))
    assert flow_module.cxone_register.fn() == {good: "created"}
    platform.add_tenant("cxone", "west", **connection(sim.url, None, "tok3n"))
    with pytest.raises(CcaasError, match="webhook_base_url"):
        flow_module.cxone_register.fn()
    assert [row["registration"] for row in shown] == ["created", "unchanged", "failed"]
    assert "tok3n" not in str(shown)


def test_no_tenant_at_all_is_a_clear_error(platform: Platform) -> None:
    platform.add_tenant("genesys", "north")
    with pytest.raises(ConfigurationError, match="none of vendor 'cxone'"):
        cxone_tenants(platform.settings())
