"""A replay of real calls: both simulators on a stack, and the configuration that points the platform at them."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from pydantic import SecretStr

from devstack.errors import StackError
from devstack.ports import free_port
from devstack.python import python_environment
from devstack.simulators.trace import NoCallsError, read_trace
from devstack.stack import LocalStack
from streaming.errors import ConfigurationError
from streaming.settings import Settings

SHIPPED_TRACE = Path(__file__).parents[1] / "data" / "anonymous-bank-1999-01-06.tsv.gz"
"""One weekday of real calls; see data/README.md."""

_START_SECONDS = 60.0
_REQUEST_SECONDS = 10.0


class Vendor(NamedTuple):
    """A simulated vendor of the replay."""

    name: str
    tenant_id: str
    ivr: str

    @property
    def events_topic(self) -> str:
        """Topic of its canonical events."""
        return f"ccaaus.events.{self.name}.{self.tenant_id}"

    @property
    def dlq_topic(self) -> str:
        """Topic of its dead letters."""
        return f"ccaaus.dlq.{self.name}.{self.tenant_id}"


VENDORS = (Vendor("genesys", "bank-north", "AA01"), Vendor("cxone", "bank-south", "AA02"))


class Ports(NamedTuple):
    """Ports of the platform's services, chosen free."""

    receiver: int
    genesys_ingest: int
    cxone_publisher: int
    analytics_sink: int
    crm_sync: int
    wfm_realtime: int
    wfm: int


def trace_dates(trace: Path, first_dates: int | None = None) -> list[date]:
    """The recorded dates of a trace that has calls of both vendors, in order.

    Raises:
        ConfigurationError: the trace is no trace, or lacks a vendor's calls; names file, line, column and remedy.
    """
    days: set[int] = set()
    for vendor in VENDORS:
        try:
            days |= {call.day_ms for call in read_trace(trace, ivr=vendor.ivr, first_dates=first_dates)}
        except NoCallsError:
            needed = " and ".join(f"{other.ivr} ({other.name})" for other in VENDORS)
            msg = (
                f"{trace}: no call of IVR {vendor.ivr} on the dates wanted, so {vendor.name} would send nothing. "
                f"The replay needs calls of both {needed}, see column vru+line: give a trace, or more days, with both"
            )
            raise ConfigurationError(msg) from None
    return [datetime.fromtimestamp(day_ms / 1000, UTC).date() for day_ms in sorted(days)]


class CallReplay:
    """Simulators and configuration of one replay.

    Args:
        stack: Kafka and registry; also starts and ends the simulators.
        folder: Gets ``ccaas.toml`` and the platform's data.
        trace: Trace file.
        first_dates: Play only so many of its dates.
        as_recorded: Keep the trace's dates; else they are moved by whole days so that the last is yesterday.
        flush_seconds: How often the sink closes a landing file.
        suffix: Appended to the names of tenants and consumer groups, for several replays on one broker.
        clients: Further client properties of Kafka and of the registry, for a cluster that exists.
        replication_factor: Of the topics.
        genesys_options: Of ``[vendors.genesys]``: waits of wall time that suit the replay's speed.
        registry_options: Further ones of ``[registry]``.
        crm: Start a simulated CRM too; without it ``crm-sync`` has no address.

    Raises:
        ConfigurationError: the trace is no trace.
    """

    def __init__(
        self,
        stack: LocalStack,
        folder: Path,
        *,
        trace: Path = SHIPPED_TRACE,
        first_dates: int | None = None,
        as_recorded: bool = False,
        flush_seconds: float = 2,
        suffix: str = "",
        clients: tuple[Mapping[str, SecretStr], Mapping[str, SecretStr]] = ({}, {}),
        replication_factor: int = 1,
        genesys_options: Mapping[str, float] | None = None,
        registry_options: Mapping[str, str | float] | None = None,
        crm: bool = False,
    ) -> None:
        self.stack = stack
        self.folder = folder.absolute()
        self.trace = trace.absolute()
        self.first_dates = first_dates
        dates = trace_dates(trace, first_dates)
        yesterday = datetime.now(UTC).date() - timedelta(days=1)
        self.shift_days = 0 if as_recorded else (yesterday - dates[-1]).days
        self.dates: list[date] = [day + timedelta(days=self.shift_days) for day in dates]
        self.ports = Ports(*(free_port() for _ in Ports._fields))
        self.config = self.folder / "ccaas.toml"
        self.urls: dict[str, str] = {}
        self.vendors = tuple(vendor._replace(tenant_id=vendor.tenant_id + suffix) for vendor in VENDORS)
        self._flush_seconds = flush_seconds
        self.groups = tuple(
            f"{name}{suffix}" for name in ("analytics-sink-group", "crm-state-sync-group", "wfm-realtime-group")
        )
        self.crm_log = self.folder / "crm.db"
        """Effects of the simulated CRM."""
        self.has_crm = crm
        self._suffix = suffix
        self._clients = clients
        self._replication_factor = replication_factor
        self._genesys_options = genesys_options or {}
        self._registry_options = registry_options or {}
        self._secret = secrets.token_hex(16)
        # One client: each loads the CA certificates, 25 ms of a core, and simulators are asked twice a second.
        # trust_env=False: a proxy of the environment must not see loopback traffic.
        self._http = httpx.Client(
            timeout=_REQUEST_SECONDS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    @property
    def start(self) -> datetime:
        """00:00 UTC of the first date."""
        return datetime(self.dates[0].year, self.dates[0].month, self.dates[0].day, tzinfo=UTC)

    def prepare(self) -> None:
        """Start the simulators and write the configuration; the clock stands still.

        Raises:
            StartError: a simulator does not start; the message shows its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for vendor in self.vendors:
            self.urls[vendor.name] = self._start_vendor(vendor)
        if self.has_crm:
            self.urls["crm"] = self._start_simulator("crm", ["--log", self.crm_log, "--token", self._secret])
        self.config.touch(mode=0o600)  # it holds secrets
        self.config.write_text(self._toml(), encoding="utf-8")

    def begin(self, speed: float) -> None:
        """Start both clocks: event time over wall time is ``speed``, 0 as fast as possible.

        Raises:
            StackError: a simulator does not answer, or refuses.
        """
        for vendor in self.vendors:
            self._ask(vendor.name, "POST", "start", {"speed": speed})

    def misbehave(self, vendor: str, **orders: Any) -> None:
        """Give a simulator orders to misbehave.

        Raises:
            StackError: it does not answer, or refuses.
        """
        self._ask(vendor, "POST", "misbehave", orders)

    def status(self, simulator: str) -> dict[str, Any]:
        """What a simulator says of itself.

        Raises:
            StackError: it does not answer.
        """
        answer: dict[str, Any] = self._ask(simulator, "GET", "status").json()
        return answer

    def effects(self) -> dict[str, int]:
        """Events that had an effect in the simulated CRM, by vendor; each counts once. Without a CRM none.

        Raises:
            StackError: it does not answer.
        """
        counts: dict[str, int] = self.status("crm")["effects_by_vendor"] if self.has_crm else {}
        return counts

    @property
    def live_url(self) -> str:
        """The page of live queues and agents."""
        return f"http://127.0.0.1:{self.ports.wfm}/"

    def is_done(self) -> bool:
        """Whether both have sent everything."""
        return all(self.status(vendor.name)["state"] == "done" for vendor in self.vendors)

    def settings(self) -> Settings:
        """The settings of the replay's configuration, as its services read them."""
        return Settings.from_file(self.config)

    def last_event(self) -> datetime:
        """Time of the last event of the vendors, in event time."""
        return max(datetime.fromisoformat(self.status(vendor.name)["sim_now"]) for vendor in self.vendors)

    def health_urls(self) -> dict[str, str]:
        """``/readyz`` of every streaming service by name."""
        ports = self.ports
        by_name = {
            "genesys-ingest": ports.genesys_ingest,
            "cxone-receiver": ports.receiver,
            "cxone-publisher": ports.cxone_publisher,
            "analytics-sink": ports.analytics_sink,
            "crm-sync": ports.crm_sync,
            "wfm-realtime": ports.wfm_realtime,
        }
        return {name: f"http://127.0.0.1:{port}/readyz" for name, port in by_name.items()}

    def _ask(self, vendor: str, method: str, what: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        url = f"{self.urls[vendor]}/control/{what}"
        log = self.stack.processes.log_file(f"simulator-{vendor}")
        try:
            answer = self._http.request(method, url, json=body)
        except (httpx.HTTPError, OSError) as error:
            msg = f"{vendor} simulator does not answer ({type(error).__name__}: {error}); its log is {log}"
            raise StackError(msg) from error
        if answer.is_error:
            msg = f"{vendor} simulator answered {what} with {answer.status_code}: {answer.text[:500]}; its log is {log}"
            raise StackError(msg)
        return answer

    def _start_vendor(self, vendor: Vendor) -> str:
        arguments: list[str | Path] = [
            "--trace", self.trace, "--tenant", vendor.tenant_id, "--ivr", vendor.ivr,
            "--client-id", "ccaas", "--client-secret", self._secret, "--date-shift-days", str(self.shift_days),
        ]  # fmt: skip
        if self.first_dates is not None:
            arguments += ["--first-dates", str(self.first_dates)]
        if vendor.name == "cxone":
            arguments += ["--target", f"http://127.0.0.1:{self.ports.receiver}", "--webhook-token", self._secret]
        return self._start_simulator(vendor.name, arguments)

    def _start_simulator(self, name: str, arguments: list[str | Path]) -> str:
        """Start it; gives its address."""
        port_file = self.folder / f"{name}.port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"devstack.simulators.{name}", "--port-file", port_file, *arguments]
        child = self.stack.processes.start(f"simulator-{name}", command, environment=python_environment())
        child.wait_healthy(port_file.exists, _START_SECONDS)
        return f"http://127.0.0.1:{port_file.read_text(encoding='utf-8').strip()}"

    def _toml(self) -> str:
        genesys, cxone, ports = self.urls["genesys"], self.urls["cxone"], self.ports
        options = "\n".join(f"{key} = {value}" for key, value in self._genesys_options.items())
        registry = "\n".join(f"{key} = {json.dumps(value)}" for key, value in self._registry_options.items())
        topics = f"'^ccaaus\\.events\\..*{self._suffix}$'"
        crm = f'url = "{self.urls["crm"]}"\ntoken = "{self._secret}"\n' if self.has_crm else ""
        return f"""# Written for a replay; the settings of a real installation are in docs/configuration.md.
data_dir = {_text(str(self.folder / "data"))}

[kafka]
bootstrap_servers = {_text(self.stack.bootstrap_servers)}
replication_factor = {self._replication_factor}

[kafka.client]
{_table(self._clients[0])}
[registry]
url = {_text(self.stack.registry_url)}
{registry}
[registry.client]
{_table(self._clients[1])}

[receiver]
port = {ports.receiver}

[sink]
flush_seconds = {self._flush_seconds}
group = "{self.groups[0]}"
topics = {topics}

[crm]
group = "{self.groups[1]}"
topics = {topics}
{crm}
[wfm]
group = "{self.groups[2]}"
topics = {topics}
port = {ports.wfm}

[spool]
min_free_disk_bytes = 100_000_000

[warehouse]
read_copy_seconds = 1

[health]
genesys_ingest = {ports.genesys_ingest}
cxone_publisher = {ports.cxone_publisher}
analytics_sink = {ports.analytics_sink}
crm_sync = {ports.crm_sync}
wfm_realtime = {ports.wfm_realtime}

[vendors.genesys]
{options}
[[tenants]]
tenant_id = "{self.vendors[0].tenant_id}"
vendor = "genesys"
value_class = "high"
[tenants.connection]
token_url = "{genesys}/login/oauth/token"
api_url = "{genesys}"
stream_url = "{genesys}/stream"
client_id = "ccaas"
client_secret = "{self._secret}"

[[tenants]]
tenant_id = "{self.vendors[1].tenant_id}"
vendor = "cxone"
[tenants.connection]
token_url = "{cxone}/auth/token"
api_url = "{cxone}"
client_id = "ccaas"
client_secret = "{self._secret}"
webhook_tokens = ["{self._secret}"]
signature = "jws"
jwks_url = "{cxone}/auth/jwks"
agent_state_poll_seconds = 1
"""


def _table(properties: Mapping[str, SecretStr]) -> str:
    """Lines of a TOML table."""
    return "".join(f"{_text(key)} = {_text(value.get_secret_value())}\n" for key, value in properties.items())


def _text(value: str) -> str:
    """A TOML string: JSON's are, but for the surrogate pairs of its ASCII form."""
    return json.dumps(value, ensure_ascii=False)
