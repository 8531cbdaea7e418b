"""Each line of the answer table of the receiver, over real HTTP, against the real process."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from streaming.spool.batch import unpack
from tests.processes import HTTP, ServiceProcess, free_port, service, until
from tests.schemas.messages import cxone, raw
from tests.streaming.cxone.signing import KeyServer, SigningKey, sign_hmac

TOKEN, OLD_TOKEN, SECRET = "s3cret-of-16-chars", "the-old-one-0001", "hmac-secret-0001"
BEARER = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
KEY = SigningKey("k1")
BODY = raw(cxone("CALL_STARTED"))


@dataclass
class World:
    url: str
    process: ServiceProcess
    keys: KeyServer
    data: Path

    def post(self, tenant: str, body: bytes, headers: Mapping[str, Any]) -> httpx.Response:
        return HTTP.post(f"{self.url}/cxone/webhook/{tenant}", content=body, headers=headers, timeout=20)

    def spooled(self, table: str = "event") -> list[bytes]:
        with closing(sqlite3.connect(self.data / "spool" / "receiver-000.db")) as database:
            if table == "deferred":
                return [body for (body,) in database.execute("SELECT body FROM deferred ORDER BY tenant, seq")]
            rows = database.execute("SELECT frames, bodies FROM event ORDER BY tenant, seq").fetchall()
        return [event.body for row in rows for event in unpack(*row)]


def configure(
    folder: Path, port: int, jwks_url: str, spool: str = "", tenant: str = "", unknown_key_seconds: float = 3
) -> Path:
    """Two tenants, ``south`` under JWS and ``mac`` under HMAC; with more lines for ``[spool]`` and both connections."""
    connection = (
        'token_url = "http://127.0.0.1:1/t"\napi_url = "http://127.0.0.1:1"\nclient_id = "i"\nclient_secret = "s"\n'
        f'webhook_tokens = ["{TOKEN}", "{OLD_TOKEN}"]\njwks_url = "{jwks_url}"\n'
        f"unknown_key_seconds = {unknown_key_seconds}\n{tenant}"
    )
    config = folder / "ccaas.toml"
    config.write_text(
        f'data_dir = "{folder}"\n[receiver]\nport = {port}\n[spool]\n{spool or "min_free_disk_bytes = 0"}\n'
        f'[[tenants]]\ntenant_id = "south"\nvendor = "cxone"\n[tenants.connection]\n{connection}'
        f'[[tenants]]\ntenant_id = "mac"\nvendor = "cxone"\n[tenants.connection]\n{connection}'
        f'signature = "hmac"\nhmac_secret = "{SECRET}"\n',
        encoding="utf-8",
    )
    return config


@contextmanager
def running(
    folder: Path,
    spool: str = "",
    tenant: str = "",
    keys: list[dict[str, str]] | None = None,
    unknown_key_seconds: float = 3,
) -> Iterator[World]:
    """A receiver and the vendor's key server, which has ``KEY`` unless told otherwise."""
    server, port = KeyServer(), free_port()
    server.keys = [KEY.jwk()] if keys is None else keys
    config = configure(folder, port, server.url, spool, tenant, unknown_key_seconds)
    try:
        with service("cxone-receiver", config, port) as process:
            yield World(f"http://127.0.0.1:{port}", process, server, folder)
    finally:
        server.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running(tmp_path) as made:
        yield made


def test_each_line_of_the_answer_table(world: World) -> None:
    good = BEARER | KEY.sign(BODY)
    no_event = b'{"no":"event"}'
    big = raw(cxone("CALL_STARTED", filler="x" * 1_048_576))
    lines: list[tuple[str, bytes, dict[str, Any], int, Any]] = [
        ("south", BODY, good, 200, {"status": "accepted"}),
        ("mac", BODY, BEARER | sign_hmac(SECRET, BODY), 200, {"status": "accepted"}),
        ("south", BODY, BEARER, 200, {"status": "deferred"}),
        ("south", BODY, BEARER | SigningKey("k2").sign(BODY), 200, {"status": "deferred"}),
        ("south", BODY, BEARER | KEY.sign(BODY, age=301), 200, {"status": "deferred"}),
        ("south", BODY, BEARER | KEY.sign(BODY, age=-310), 200, {"status": "deferred"}),
        ("mac", BODY, BEARER | sign_hmac(SECRET, BODY, age=301), 200, {"status": "deferred"}),
        ("mac", BODY, BEARER | sign_hmac("other", BODY), 200, {"status": "deferred"}),
        ("south", no_event, BEARER | KEY.sign(no_event), 200, {"status": "accepted"}),
        ("south", b"[]", BEARER | KEY.sign(b"[]"), 200, {"status": "accepted"}),
        ("south", no_event, BEARER, 401, None),
        ("south", no_event, BEARER | SigningKey("k1").sign(no_event), 401, None),
        ("south", no_event, BEARER | SigningKey("k2").sign(no_event), 401, None),
        ("mac", no_event, BEARER | sign_hmac("other", no_event), 401, None),
        ("south", b"[]", BEARER, 401, None),
        ("south", BODY, BEARER | {"X-CXone-Signature": "x" * 10_000}, 401, None),
        ("mac", BODY, BEARER | sign_hmac("other", BODY) | {"X-CXone-Timestamp": "1" * 65}, 401, None),
        ("south", BODY, good | {"Authorization": f"Bearer {OLD_TOKEN}"}, 200, {"status": "accepted"}),
        ("south", BODY, good | {"Authorization": f"bearer {TOKEN}"}, 200, {"status": "accepted"}),
        ("south", BODY, good | {"Content-Type": "Application/JSON; charset=utf-8"}, 200, {"status": "accepted"}),
        ("south", BODY, good | {"Content-Type": "application/jsonp"}, 415, None),
        ("south", BODY, good | {"Authorization": f"Basic {TOKEN}"}, 401, None),
        ("south", BODY, good | {"Authorization": TOKEN}, 401, None),
        ("south", BODY, good | {"Authorization": "Bearer"}, 401, None),
        ("south", BODY, good | {"Authorization": "Bearer wrong"}, 401, None),
        ("south", BODY, good | {"Authorization": "Bearer \u00e9".encode("latin-1")}, 401, None),
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
    assert world.spooled() == [BODY, no_event, b"[]", BODY, BODY, BODY, BODY]
    assert world.spooled("deferred") == [BODY] * 6
    assert "s3cret" not in world.process.log.read_text()


def test_a_chunked_body_is_bounded_too(world: World) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"["
        for _ in range(1200):
            yield b" " * 1024
        yield b"]"

    answer = HTTP.post(f"{world.url}/cxone/webhook/south", content=chunks(), headers=BEARER)
    assert answer.status_code == 413


def test_get_is_refused_and_probes_answer(world: World) -> None:
    assert HTTP.get(f"{world.url}/cxone/webhook/south").status_code == 405
    assert HTTP.get(f"{world.url}/elsewhere").status_code == 404
    assert HTTP.get(f"{world.url}/readyz").status_code == 200
    world.post("south", BODY, BEARER | KEY.sign(BODY))
    world.post("south", BODY, BEARER)
    for _ in range(2):  # asking again counts nothing twice
        metrics = HTTP.get(f"{world.url}/metrics").text
        for line in (
            'ccaas_cxone_webhooks_total{answer="accepted",tenant_id="south"} 1.0',
            'ccaas_cxone_webhooks_total{answer="deferred",tenant_id="south"} 1.0',
            'ccaas_cxone_spool_rows{lane="ordinary"} 1.0',
            'ccaas_cxone_spool_rows{lane="deferred"} 1.0',
            'ccaas_cxone_webhook_tokens_total{position="1",tenant_id="south"} 0.0',
        ):
            assert line in metrics
    world.post("south", BODY, BEARER | KEY.sign(BODY) | {"Authorization": f"Bearer {OLD_TOKEN}"})
    metrics = HTTP.get(f"{world.url}/metrics").text
    assert 'ccaas_cxone_webhook_tokens_total{position="1",tenant_id="south"} 1.0' in metrics


def test_a_strangers_flood_is_counted_in_full_and_logged_in_part(world: World) -> None:
    for _ in range(100):
        assert world.post("south", BODY, {"Authorization": "Bearer wrong"}).status_code == 401
    time.sleep(1)
    assert world.post("south", BODY, {"Authorization": "Bearer wrong"}).status_code == 401
    assert 'answer="401",tenant_id="south"} 101.0' in HTTP.get(f"{world.url}/metrics").text
    said = re.findall(r"webhook refused.*suppressed=(\d+)", world.process.log.read_text())
    assert len(said) + sum(map(int, said)) == 101
    assert len(said) < 50


@pytest.mark.parametrize("bound", [f"max_bytes_per_tenant = {3 * len(BODY)}", "max_rows_per_tenant = 3"])
def test_a_full_line_is_503_for_its_tenant_only_and_after_a_restart_too(tmp_path: Path, bound: str) -> None:
    with running(tmp_path, f"min_free_disk_bytes = 0\nretry_after_seconds = 7\n{bound}") as world:
        for _ in range(3):
            assert world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code == 200
        world.process.stop()
        world.process.start()
        world.process.wait_alive()
        full = world.post("south", BODY, BEARER | KEY.sign(BODY))
        assert (full.status_code, full.headers["Retry-After"]) == (503, "7")
        assert world.post("mac", BODY, BEARER | sign_hmac(SECRET, BODY)).status_code == 200
        assert HTTP.get(f"{world.url}/readyz").status_code == 200, "there is room for others"


@pytest.mark.parametrize("bound", [f"max_bytes = {3 * len(BODY)}", "max_rows = 3"])
def test_a_full_spool_is_503_for_all_and_said_by_readyz(tmp_path: Path, bound: str) -> None:
    with running(tmp_path, f"min_free_disk_bytes = 0\n{bound}") as world:
        for _ in range(3):
            assert world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code == 200
        for tenant, signed in (("south", KEY.sign(BODY)), ("mac", sign_hmac(SECRET, BODY))):
            answer = world.post(tenant, BODY, BEARER | signed)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert world.post("south", BODY, BEARER).json() == {"status": "deferred"}, "its lane has room of its own"
        assert HTTP.get(f"{world.url}/readyz").status_code == 503
        assert HTTP.get(f"{world.url}/healthz").status_code == 200


# What a row takes of its bytes: body, signature and reason. The bounds leave room for no fifth.
_ROW = len(BODY) + len(json.dumps({"x-cxone-signature": KEY.sign(BODY)["X-CXone-Signature"]})) + 60


@pytest.mark.parametrize("bound", ["max_deferred_rows_per_tenant = 4", f"max_deferred_bytes_per_tenant = {4 * _ROW}"])
def test_a_flood_of_forged_webhooks_fills_its_own_lane_only(tmp_path: Path, bound: str) -> None:
    with running(tmp_path, f"min_free_disk_bytes = 0\nmax_rows_per_tenant = 2\n{bound}") as world:
        forged = SigningKey("k1").sign(BODY)
        answers = [world.post("south", BODY, BEARER | forged) for _ in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 4 + [503] * 4
        assert answers[-1].headers["Retry-After"] == "5"
        assert "deferred" in answers[-1].json()["error"]
        assert world.post("mac", BODY, BEARER | sign_hmac("forged", BODY)).json() == {"status": "deferred"}
        good = [world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code for _ in range(3)]
        assert good == [200, 200, 503], "as many as without the flood"
        assert HTTP.get(f"{world.url}/readyz").status_code == 200


@pytest.mark.parametrize("bound", ["max_deferred_rows = 3", f"max_deferred_bytes = {3 * (len(BODY) + 130)}"])
def test_the_deferred_lane_is_bounded_over_all_tenants_too(tmp_path: Path, bound: str) -> None:
    with running(tmp_path, f"min_free_disk_bytes = 0\n{bound}") as world:
        tenants = ["south", "mac", "south", "mac", "south"]
        answers = [world.post(tenant, BODY, BEARER).status_code for tenant in tenants]
        assert answers == [200, 200, 200, 503, 503]
        assert world.post("mac", BODY, BEARER | sign_hmac(SECRET, BODY)).status_code == 200


def test_a_disk_with_too_little_left_is_503(tmp_path: Path) -> None:
    with running(tmp_path, f"min_free_disk_bytes = {1 << 60}") as world:
        answer = world.post("mac", BODY, BEARER | sign_hmac(SECRET, BODY))
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert HTTP.get(f"{world.url}/readyz").status_code == 503


def test_a_disk_with_space_again_takes_webhooks_again(tmp_path: Path) -> None:
    # Nobody else fills or frees half as much meanwhile.
    free = shutil.disk_usage(tmp_path).free
    signed, ballast = BEARER | sign_hmac(SECRET, BODY), tmp_path / "ballast"
    with running(tmp_path, f"min_free_disk_bytes = {free - (1 << 30)}") as world:
        assert world.post("mac", BODY, signed).status_code == 200
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 << 30)
        until(lambda: HTTP.get(f"{world.url}/readyz").status_code == 503, 10, "noticed")
        assert world.post("mac", BODY, signed).status_code == 503
        ballast.unlink()
        until(lambda: HTTP.get(f"{world.url}/readyz").status_code == 200, 10, "noticed")
        assert world.post("mac", BODY, signed).status_code == 200


def test_a_full_disk_is_503_until_there_is_space_again(world: World) -> None:
    """The kernel refuses the receiver's writes beyond a file size, as it refuses them on a full disk."""
    signed = BEARER | KEY.sign(BODY)
    assert world.post("south", BODY, signed).status_code == 200
    pid, log = world.process.process.pid, world.data / "spool" / "receiver-000.db-wal"
    limits = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))
    try:
        answers = [world.post("south", BODY, signed) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [503] * 3
        assert answers[0].headers["Retry-After"] == "5"
        assert HTTP.get(f"{world.url}/readyz").status_code == 503
        assert HTTP.get(f"{world.url}/healthz").status_code == 200
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
    until(lambda: HTTP.get(f"{world.url}/readyz").status_code == 200, 10, "ready by itself, without a webhook")
    assert world.post("south", BODY, signed).status_code == 200
    assert world.spooled() == [BODY] * 2, "what was answered 503 is not there"


def test_a_tenant_over_its_rate_is_429_and_delays_no_other(tmp_path: Path) -> None:
    with running(tmp_path, tenant="requests_per_second = 0.01\n") as world:
        signed = BEARER | KEY.sign(BODY)
        assert world.post("south", BODY, BEARER | {"Authorization": "Bearer wrong"}).status_code == 401
        assert world.post("south", BODY, signed).status_code == 200, "a stranger takes nothing of the rate"
        answer = world.post("south", b"", BEARER | {"Content-Type": "text/plain"})
        assert answer.status_code == 429, "before the content type"
        assert 1 <= int(answer.headers["Retry-After"]) <= 100
        assert world.post("mac", BODY, BEARER | sign_hmac(SECRET, BODY)).status_code == 200


def test_no_key_to_be_had_is_deferred(tmp_path: Path) -> None:
    with running(tmp_path, keys=[]) as world:
        assert world.post("south", BODY, BEARER | KEY.sign(BODY)).json() == {"status": "deferred"}
        assert world.spooled("deferred") == [BODY]


def test_of_two_signatures_none_counts_and_both_are_kept(world: World) -> None:
    good, forged = sign_hmac(SECRET, BODY), sign_hmac("forged", BODY)
    twice = [*BEARER.items(), *good.items(), ("X-CXone-Signature", forged["X-CXone-Signature"])]
    answer = HTTP.post(f"{world.url}/cxone/webhook/mac", content=BODY, headers=twice)
    assert answer.json() == {"status": "deferred"}
    with closing(sqlite3.connect(world.data / "spool" / "receiver-000.db")) as database:
        ((kept,),) = database.execute("SELECT signature FROM deferred").fetchall()
    assert json.loads(kept) == {
        "x-cxone-signature": f"{good['X-CXone-Signature']},{forged['X-CXone-Signature']}",
        "x-cxone-timestamp": good["X-CXone-Timestamp"],
    }


def test_a_sender_who_hangs_up_stores_nothing(world: World) -> None:
    signed = sign_hmac(SECRET, BODY)
    head = "".join(f"{name}: {value}\r\n" for name, value in (BEARER | signed).items())
    port = int(world.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        head = f"POST /cxone/webhook/mac HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY) + 1}\r\n{head}\r\n"
        connection.sendall(head.encode() + BODY)
    until(lambda: 'answer="400"' in HTTP.get(f"{world.url}/metrics").text, 10, "noticed")
    assert world.spooled() == []
    assert world.spooled("deferred") == []


def test_a_torn_write_ahead_log_loses_nothing_that_was_folded_in_or_lies_before_it(world: World) -> None:
    bodies = [raw(cxone("CALL_STARTED", contactId=f"c-{number}")) for number in range(20)]
    log = world.data / "spool" / "receiver-000.db-wal"
    for body in bodies[:10]:
        assert world.post("mac", body, BEARER | sign_hmac(SECRET, body)).status_code == 200
    safe = log.stat().st_size
    for body in bodies[10:]:
        assert world.post("mac", body, BEARER | sign_hmac(SECRET, body)).status_code == 200
    world.process.kill()
    with log.open("r+b") as file:  # the disk lost what came after, and half a page of something else lies there
        file.truncate(safe)
        file.seek(safe)
        file.write(b"\xa5" * 2_000)
    world.process.start()
    world.process.wait_alive()
    assert world.post("mac", BODY, BEARER | sign_hmac(SECRET, BODY)).status_code == 200
    assert world.spooled() == [*bodies[:10], BODY]


def has_first_keys(world: World) -> bool:
    """Whether the first fetch is over; a webhook may not ask, for it could cause another one."""
    return "signing keys in force" in world.process.log.read_text()


def test_new_keys_are_fetched_when_a_signature_names_them(tmp_path: Path) -> None:
    with running(tmp_path, unknown_key_seconds=0.001) as world:
        until(lambda: has_first_keys(world), 10, "first keys")
        fresh = SigningKey("fresh", "ES256")
        world.keys.keys = [KEY.jwk(), fresh.jwk()]
        assert world.post("south", BODY, BEARER | fresh.sign(BODY)).json() == {"status": "accepted"}


def test_unknown_keys_cause_no_more_fetches_than_are_allowed(tmp_path: Path) -> None:
    with running(tmp_path, unknown_key_seconds=3600) as world:
        until(lambda: has_first_keys(world), 10, "first keys")
        fresh, before = SigningKey("fresh", "ES256"), world.keys.requests
        world.keys.keys = [KEY.jwk(), fresh.jwk()]
        for _ in range(5):
            assert world.post("south", BODY, BEARER | fresh.sign(BODY)).json() == {"status": "deferred"}
        assert world.keys.requests == before


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
        assert second.stderr is not None
        assert "standing by" in second.stderr.readline()
        assert second.poll() is None
        world.process.kill()
        until(lambda: HTTP.get(f"{world.url}/healthz").status_code == 200, 20, "taken over")
        assert world.post("south", BODY, BEARER | KEY.sign(BODY)).status_code == 200
    finally:
        second.terminate()
        second.communicate(timeout=20)
