"""From failing events to a person's telephone: a real broker, state database, Prefect server and webhook."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.blocks.system import Secret
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, temporary_settings

from devstack.prefect import PrefectServer
from devstack.stack import LocalStack
from flows._alert_key import ALERT_KEY
from flows.alerts import NAME, install_alerts
from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.state import drift, open_state
from streaming.topics import ensure_topics
from tests.conftest import Platform
from tests.processes import free_port, until


class Telephone:
    """An HTTP listener that keeps what it is sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        phone = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                phone.messages.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def subjects(self) -> list[str]:
        return [message["subject"] for message in self.messages]


@contextmanager
def telephone() -> Iterator[Telephone]:
    phone = Telephone()
    serving = threading.Thread(target=phone.server.serve_forever, daemon=True)
    serving.start()
    try:
        yield phone
    finally:
        phone.server.shutdown()
        phone.server.server_close()


@pytest.fixture(scope="module")
def prefect(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(stack.processes, tmp_path_factory.mktemp("prefect"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def api(prefect: PrefectServer) -> Iterator[httpx.Client]:
    with (
        temporary_settings({PREFECT_API_URL: prefect.api_url}),
        httpx.Client(base_url=prefect.api_url, timeout=30) as client,
    ):
        yield client


@pytest.fixture
def phone(api: httpx.Client) -> Iterator[Telephone]:
    """A telephone that is told by the automation."""
    with telephone() as phone:
        block = CustomWebhookNotificationBlock(
            name="ops", url=phone.url, json_data={"subject": "{{subject}}", "body": "{{body}}"}
        )
        block.save("ops", overwrite=True)
        yield phone


def automations(api: httpx.Client) -> list[dict[str, Any]]:
    found = api.post("/automations/filter", json={}).raise_for_status().json()
    return [automation for automation in found if automation["name"] == NAME]


SERVICE = """
import json, sys
import flows._stream
from schemas.registry import Registry
from streaming.deadletter import dead_letter_headers
from streaming.errors import BadEventError
from streaming.publisher import Publisher

def service(settings, stop):
    publisher = Publisher(settings, Registry(settings.registry).encoder(), "alerts")
    for path, count in json.loads(sys.argv[1]):
        error = BadEventError(f"{path}: missing", reason="missing_field", path=path)
        for number in range(count):
            headers = dead_letter_headers(error, stage="normalise", transport="webhook")
            tenant = settings.tenants[number % len(settings.tenants)]
            publisher.dead_letter(tenant, key=None, value=b"{}", headers=headers, acknowledged=lambda: None)
        assert publisher.drain(60) == 0
    publisher.close()
    stop.wait()

flows._stream.services = lambda: {"failing": service}
flows._stream.run_stream("failing")
"""


@contextmanager
def failing(platform: Platform, prefect: PrefectServer, *kinds: tuple[str, int]) -> Iterator[None]:
    """A streaming service, as its flow runs it, whose vendor sends bad events: path of the field, how many."""
    environment = prefect.environment() | {"CCAAS_CONFIG": str(platform.config)}
    running = subprocess.Popen([sys.executable, "-c", SERVICE, json.dumps(kinds)], env=environment)
    try:
        yield
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


@pytest.mark.timeout(400)
def test_a_burst_over_all_tenants_is_one_alert(platform: Platform, prefect: PrefectServer, phone: Telephone) -> None:
    install_alerts(["custom-webhook/ops"])
    tenants = [platform.add_tenant("cxone", name) for name in ("east", "north", "south")]
    settings = platform.settings()
    ensure_topics(settings.kafka, settings.tenants)
    with failing(platform, prefect, ("contactId", 10_000)):
        until(lambda: phone.messages, 90, "the burst is told")
    with failing(platform, prefect, ("contactId", 10_000), ("skillId", 3)):
        until(lambda: len(phone.messages) == 2, 120, "a second kind is told")
    with failing(platform, prefect, ("contactId", 300), ("skillId", 300), ("timestamp", 1)):
        until(lambda: len(phone.messages) == 3, 120, "a third kind is told")
    engine = open_state(settings.state_url)
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count()).where(drift.c.told_ms.is_(None))).scalar() == 0
    engine.dispose()
    assert phone.subjects() == ["CCaaS: events fail (cxone)"] * 3
    bodies = [message["body"] for message in phone.messages]
    assert ["contactId" in body for body in bodies] == [True, False, False]
    assert ["skillId" in body for body in bodies] == [False, True, False]
    assert f"tenants: {', '.join(sorted(tenants))}" in bodies[0]
    for words in ("failed_event_status", "docs/dead-letters.md", "message: contactId: missing", "what: normalise"):
        assert words in bodies[0], bodies[0]


@pytest.mark.timeout(200)
def test_of_the_same_there_is_one_alert_within_the_hour(api: httpx.Client, phone: Telephone) -> None:
    install_alerts(["custom-webhook/ops"])

    def emit(name: str, key: str, tenant: str) -> None:
        resource = {"prefect.resource.id": f"ccaas.tenant.cxone.{tenant}", ALERT_KEY: key}
        event = Event(event=name, resource=resource, payload={"missing": 7})
        api.post("/events", json=[event.model_dump(mode="json")]).raise_for_status()

    missing = "ccaas.reconcile.missing-above-threshold"
    for number in range(50):
        emit(missing, missing, f"t{number}")
    emit("ccaas.drift.unlike", "one", "a")
    emit("somebody.else", "two", "a")
    emit("ccaas.webhooks.deferred", "last", "a")
    until(lambda: any("webhooks.deferred" in subject for subject in phone.subjects()), 60, "the last one is told")
    # The server knows the automation a moment after it was made: the first that it tells is one of the first tenants.
    assert [re.sub(r"\.t\d+\)", ".t)", subject) for subject in sorted(phone.subjects())] == [
        "CCaaS: ccaas.drift.unlike (ccaas.tenant.cxone.a)",
        f"CCaaS: {missing} (ccaas.tenant.cxone.t)",
        "CCaaS: ccaas.webhooks.deferred (ccaas.tenant.cxone.a)",
    ]
    assert "missing: 7" in phone.messages[0]["body"]


def test_installing_again_changes_the_one_automation(api: httpx.Client, phone: Telephone) -> None:
    for automation in automations(api):
        api.delete(f"/automations/{automation['id']}").raise_for_status()
    assert install_alerts(["custom-webhook/ops"]) == "created"
    other = CustomWebhookNotificationBlock(name="night", url=phone.url)
    other.save("night", overwrite=True)
    assert install_alerts(["custom-webhook/ops", "custom-webhook/night"]) == "updated"
    (automation,) = automations(api)
    assert [action["type"] for action in automation["actions"]] == ["send-notification"] * 2
    assert len({action["block_document_id"] for action in automation["actions"]}) == 2
    assert automation["trigger"]["for_each"] == [ALERT_KEY]


def test_blocks_that_cannot_tell_are_named(api: httpx.Client) -> None:
    with pytest.raises(ConfigurationError, match=r"alerts\.blocks: empty"):
        install_alerts([])
    with pytest.raises(ConfigurationError, match="no block 'slack-webhook/nobody'"):
        install_alerts(["slack-webhook/nobody"])
    Secret(value="x").save("mine", overwrite=True)
    with pytest.raises(ConfigurationError, match="'secret/mine' is no notification block"):
        install_alerts(["secret/mine"])


def test_a_server_that_is_not_set_or_does_not_answer() -> None:
    with (
        temporary_settings({PREFECT_API_URL: None}),
        pytest.raises(ConfigurationError, match="PREFECT_API_URL is not set"),
    ):
        install_alerts(["custom-webhook/ops"])
    with (
        temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{free_port()}/api"}),
        pytest.raises(ServiceUnavailableError, match="does not answer"),
    ):
        install_alerts(["custom-webhook/ops"])


def test_the_command_names_what_is_wrong_in_the_settings(platform: Platform, prefect: PrefectServer) -> None:
    platform.add_tenant("cxone", "south")
    environment = prefect.environment() | {
        "CCAAS_CONFIG": str(platform.config), "CCAAS_ALERTS__BLOCKS": '["slack webhook"]',
    }  # fmt: skip
    command = [sys.executable, "-c", "from streaming.cli import main; main()", "alerts", "install"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "alerts.blocks.0: Value error, must be a block's type and name, for example slack-webhook/on-call" in (
        done.stderr
    )
