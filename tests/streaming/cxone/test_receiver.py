"""Each line of the answer table of the receiver, over real HTTP, against the real process."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import ServiceProcess, free_port, service, until
from tests.schemas.messages import cxone, raw
from tests.streaming.cxone.signing import KeyServer, SigningKey, sign_hmac

BEARER = {"Authorization": "Bearer s3cret", "Content-Type": "application/json"}
KEY = SigningKey("k1")
BODY = raw(cxone("CALL_STARTED"))


@dataclass
class World:
    url: str
    process: ServiceProcess
    keys: KeyServer
    data: Path

    def post(self, tenant: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(f"{self.url}/cxone/webhook/{tenant}", content=body, headers=headers, timeout=20)

    def spooled(self, table: str = "event") -> list[bytes]:
        with sqlite3.connect(self.data / "spool" / "receiver-000.db") as database:
            found = [row[0] for row in database.execute(f"SELECT body FROM {table} ORDER BY tenant, seq")]
        database.close()
        return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    keys, port = KeyServer(), free_port()
    keys.keys = [KEY.jwk()]
    connection = (
        f'token_url = "http://127.0.0.1:1/t"\napi_url = "http://127.0.0.1:1"\nclient_id = "i"\nclient_secret = "s"\n'
        f'webhook_tokens = ["s3cret"]\njwks_url = "{keys.url}"\n'
        "unknown_key_seconds = 3\n"
    )
    config = tmp_path / "ccaas.toml"
    config.write_text(
        f'data_dir = "{tmp_path}"\n[receiver]\nport = {port}\n[spool]\nmin_free_disk_bytes = 0\n'
        f"max_bytes_per_tenant = 5000000\n"
        f'[[tenants]]\ntenant_id = "south"\nvendor = "cxone"\n[tenants.connection]\n{connection}'
        f'[[tenants]]\ntenant_id = "mac"\nvendor = "cxone"\n[tenants.connection]\n{connection}'
        'signature = "hmac"\nhmac_secret = "h"\n',
        encoding="utf-8",
    )
    with service("cxone-receiver", config, port) as process:
        yield World(f"http://127.0.0.1:{port}", process, keys, tmp_path)
    keys.close()


def test_each_line_of_the_answer_table(world: World) -> None:
    good = BEARER | KEY.sign(BODY)
    no_event = b'{"no":"event"}'
    big = raw(cxone("CALL_STARTED", filler="x" * 1_048_576))
    lines: list[tuple[str, bytes, dict[str, str], int, Any]] = [
        ("south", BODY, good, 200, {"status": "accepted"}),
        ("mac", BODY, BEARER | sign_hmac("h", BODY), 200, {"status": "accepted"}),
        ("south", BODY, BEARER, 200, {"status": "deferred"}),
        ("south", BODY, BEARER | SigningKey("k2").sign(BODY), 200, {"status": "deferred"}),
        ("south", BODY, BEARER | KEY.sign(BODY, age=4000), 200, {"status": "deferred"}),
        ("mac", BODY, BEARER | sign_hmac("other", BODY), 200, {"status": "deferred"}),
        ("south", no_event, BEARER | KEY.sign(no_event), 200, {"status": "accepted"}),
        ("south", no_event, BEARER, 401, None),
        ("south", BODY, good | {"Authorization": "Bearer wrong"}, 401, None),
        ("south", BODY, {k: v for k, v in good.items() if k != "Authorization"}, 401, None),
        ("south", BODY, good | {"Content-Type": "text/plain"}, 415, None),
        ("nobody", BODY, good, 404, None),
        ("south", big, BEARER | KEY.sign(big), 413, None),
    ]
    for tenant, body, headers, status, said in lines:
        answer = world.post(tenant, body, headers)
        assert answer.status_code == status, (tenant, body[:40], headers, answer.text)
        if said is not None:
            assert answer.json() == said
        else:
            assert len(answer.json()["error"]) > 10
    assert world.spooled() == [BODY, no_event, BODY]
    assert world.spooled("deferred") == [BODY] * 4
    assert "s3cret" not in world.process.log.read_text()


def test_a_chunked_body_is_bounded_too(world: World) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"["
        for _ in range(1200):
            yield b" " * 1024
        yield b"]"

    answer = httpx.post(f"{world.url}/cxone/webhook/south", content=chunks(), headers=BEARER)
    assert answer.status_code == 413


def test_get_is_refused_and_probes_answer(world: World) -> None:
    assert httpx.get(f"{world.url}/cxone/webhook/south").status_code == 405
    assert httpx.get(f"{world.url}/elsewhere").status_code == 404
    assert httpx.get(f"{world.url}/readyz").status_code == 200
    world.post("south", BODY, BEARER | KEY.sign(BODY))
    assert (
        'ccaas_cxone_webhooks_total{answer="accepted",tenant_id="south"} 1.0' in httpx.get(f"{world.url}/metrics").text
    )


def test_a_full_line_is_503_for_its_tenant_only(world: World) -> None:
    body = raw([cxone("CALL_STARTED", filler="x" * 1_000_000)])
    statuses = [world.post("south", body, BEARER | KEY.sign(body)) for _ in range(6)]
    assert [answer.status_code for answer in statuses[-2:]] == [503, 503]
    assert statuses[-1].headers["Retry-After"] == "5"
    assert world.post("mac", BODY, BEARER | sign_hmac("h", BODY)).status_code == 200


def test_new_keys_are_fetched_when_a_signature_names_them(world: World) -> None:
    fresh = SigningKey("fresh", "ES256")
    world.keys.keys = [KEY.jwk(), fresh.jwk()]
    answers = []
    # The first fetch was at the start; another one is allowed some seconds later. Until then the event is set aside.
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        answers.append(world.post("south", BODY, BEARER | fresh.sign(BODY)).json()["status"])
        if answers[-1] == "accepted":
            break
        time.sleep(0.5)
    assert answers[-1] == "accepted"
    assert answers[0] == "deferred"
    assert world.keys.requests <= 2 + len(answers) // 6


def test_what_was_answered_200_survives_kill_9(world: World) -> None:
    bodies = [raw(cxone("CALL_STARTED", contactId=f"c-{number}")) for number in range(50)]
    for body in bodies:
        assert world.post("south", body, BEARER | KEY.sign(body)).status_code == 200
    world.process.kill()
    assert world.spooled() == bodies
    world.process.start()
    world.process.wait_alive()
    assert world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code == 200
    assert world.spooled() == [*bodies, BODY]


def run_receiver(world: World, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [Path(sys.executable).parent / "ccaas", "run", "cxone-receiver"],
        env={"CCAAS_CONFIG": str(world.process.config), "PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_port_that_another_program_has_is_a_clear_error(world: World) -> None:
    port = world.keys.url.split(":")[2].split("/")[0]
    ran = run_receiver(world, CCAAS_RECEIVER__PORT=port)
    _, said = ran.communicate(timeout=30)
    assert ran.returncode == 2
    assert "receiver.port" in said
    assert "Traceback" not in said


def test_a_second_copy_stands_by_and_takes_over(world: World) -> None:
    second = run_receiver(world)
    try:
        time.sleep(3)
        assert second.poll() is None, "it stands by"
        world.process.kill()
        until(lambda: httpx.get(f"{world.url}/healthz").status_code == 200, 20, "taken over")
        assert world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code == 200
    finally:
        second.terminate()
        second.communicate(timeout=20)
