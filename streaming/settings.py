"""The one settings object: environment variables over a TOML file.

The file is named by ``CCAAS_CONFIG`` (default ``./ccaas.toml``, which may be absent). A variable is the upper-case path
of a setting with ``CCAAS_`` before it and ``__`` between levels, e.g. ``CCAAS_KAFKA__BOOTSTRAP_SERVERS=host1:9092``.
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from streaming.errors import ConfigurationError

# Both become parts of topic names, which Kafka limits to this alphabet; a dot would make the name ambiguous.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TOPIC = re.compile(rf"ccaaus\.(.+)\.({_NAME.pattern})\.({_NAME.pattern})")

HIGH_VALUE_RETENTION_MS = 604_800_000
STANDARD_RETENTION_MS = 259_200_000


def _topic_safe(value: str) -> str:
    if not _NAME.fullmatch(value):
        msg = "may hold only letters, digits, '_' and '-', 1 to 100 of them: it becomes part of topic names"
        raise ValueError(msg)
    return value


Name = Annotated[str, AfterValidator(_topic_safe)]


def _http_url(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        msg = "must be an address like https://host:port/path"
        raise ValueError(msg)
    if "@" in value.split("/")[2]:
        msg = "may hold no user and password, since addresses are logged; give them as client properties"
        raise ValueError(msg)
    return value


HttpAddress = Annotated[str, AfterValidator(_http_url)]
"""An http or https URL without credentials."""


def _absolute(value: Path) -> Path:
    if not value.is_absolute():
        msg = "must be an absolute path: each flow of a Prefect worker runs in a folder of its own"
        raise ValueError(msg)
    return value


class _Section(BaseModel):
    """A section of the file; a key that it does not know is an error, so that a typing mistake is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(_Section):
    """Address and librdkafka properties shared by every producer, consumer and admin client."""

    bootstrap_servers: str = "127.0.0.1:9092"
    # Any librdkafka property, e.g. security.protocol, sasl.mechanism, sasl.username, sasl.password, ssl.ca.location.
    client: dict[str, SecretStr] = Field(default_factory=dict)
    replication_factor: PositiveInt = 1

    def client_config(self) -> dict[str, Any]:
        """The librdkafka properties, secrets revealed: hand them to a client at once, never to a log."""
        properties = {key: value.get_secret_value() for key, value in self.client.items()}
        return {"bootstrap.servers": self.bootstrap_servers, **properties}


class RegistrySettings(_Section):
    """Address and further properties (``basic.auth.user.info``, ``ssl.ca.location``, …) of the schema registry."""

    url: HttpAddress = "http://127.0.0.1:8081/apis/ccompat/v7"
    # Folder of the schema's versions (.avsc), where promotion adds new ones; by default the project's schemas/avro.
    schema_dir: Annotated[Path, AfterValidator(_absolute)] | None = None
    # How often running services look for a newer version.
    refresh_seconds: PositiveFloat = 30
    client: dict[str, SecretStr] = Field(default_factory=dict)

    def client_config(self) -> dict[str, Any]:
        """The SchemaRegistryClient properties, secrets revealed."""
        return {"url": self.url, **{key: value.get_secret_value() for key, value in self.client.items()}}


class ProducerSettings(_Section):
    """The two producer properties that may be tuned; the rest is part of the guarantee."""

    linger_ms: Annotated[float, Field(ge=0, le=1000)] = 10
    batch_size: PositiveInt = 16384


class ReceiverSettings(_Section):
    """CXone webhook receiver."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8090
    max_body_bytes: PositiveInt = 1_048_576


class SpoolSettings(_Section):
    """Durable spool between the webhook's 200 and Kafka. Full means 503 with Retry-After.

    A row is one webhook request. What is set aside (deferred) has bounds of its own, so that a flood of forged requests
    takes no room from good ones.
    """

    max_bytes_per_tenant: PositiveInt = 1 << 30
    max_rows_per_tenant: PositiveInt = 2_000_000
    max_bytes: PositiveInt = 8 << 30
    max_rows: PositiveInt = 16_000_000
    max_deferred_bytes_per_tenant: PositiveInt = 64 << 20
    max_deferred_rows_per_tenant: PositiveInt = 50_000
    max_deferred_bytes: PositiveInt = 512 << 20
    max_deferred_rows: PositiveInt = 400_000
    min_free_disk_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    retry_after_seconds: PositiveInt = 5
    # Events of one tenant that the drain may have at the producer: its queue is shared by all tenants.
    max_in_flight_per_tenant: PositiveInt = 2_000


def _path_or_url(value: str) -> str:
    if value and "://" not in value and not Path(value).is_absolute():
        msg = "must be an absolute path or a URL, for example s3://bucket/folder?region=eu-central-1"
        raise ValueError(msg)
    return value


_EVERY_TENANT = r"^ccaaus\.events\..*"


class GroupSettings(_Section):
    """A consumer group: what it reads, and how many members it may have."""

    group: str
    # Regular expression of the topics; it must begin with ^ (librdkafka).
    topics: Annotated[str, Field(pattern=r"^\^")] = _EVERY_TENANT
    # Numbered slots a member can lease: the greatest number of members.
    slots: PositiveInt = 8


class SinkSettings(GroupSettings):
    """analytics-sink: a Parquet file is closed at whichever bound comes first. Compaction: see docs/landing.md."""

    group: str = "analytics-sink-group"
    flush_seconds: PositiveFloat = 10
    flush_rows: PositiveInt = 50_000
    flush_bytes: PositiveInt = 32 << 20
    # Where the files go: an absolute path, or a URL that pyarrow knows. Empty: below data_dir.
    landing: Annotated[str, AfterValidator(_path_or_url)] = ""
    # A tenant's day with fewer rows shares a file with others.
    compact_min_rows: PositiveInt = 10_000
    # How long a file stays after compaction has replaced it: longer than any reader takes.
    compact_grace_hours: PositiveFloat = 24


class CrmSettings(GroupSettings):
    """crm-sync: the CRM's HTTP interface."""

    group: str = "crm-state-sync-group"
    url: HttpAddress | None = None
    token: SecretStr | None = None
    # Calls under way at once.
    concurrency: PositiveInt = 32
    timeout_seconds: PositiveFloat = 5
    # After so long the part of a batch that succeeded is committed, and the rest is tried again later. Bounded, since a
    # member's loop counts as stuck after 60 s without a poll.
    deadline_seconds: Annotated[float, Field(gt=0, le=40)] = 20


class WfmSettings(GroupSettings):
    """wfm-realtime: live queues and agents, and where they are served."""

    group: str = "wfm-realtime-group"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8107
    # For so long a late event amends an interval; what is older is in the warehouse only.
    keep_hours: PositiveFloat = 6
    # A conversation of which nothing more is heard is no longer waiting or in progress.
    longest_conversation_hours: PositiveFloat = 24
    # Of a member's tenants in memory, at most some 600 bytes each: a fact, a status change, an interval, a whole
    # conversation that has ended. At it the oldest of those go.
    max_rows: PositiveInt = 80_000


class StateSettings(_Section):
    """State database: cursors, leases, slots. SQLite under ``data_dir`` unless a URL names PostgreSQL."""

    url: SecretStr | None = None
    lease_ttl_seconds: PositiveFloat = 5


class WarehouseSettings(_Section):
    """Warehouse: DuckDB under ``data_dir`` unless a URL names another."""

    url: SecretStr | None = None
    interval_minutes: Literal[15, 30, 60] = 15
    service_level_seconds: PositiveInt = 20
    # The share that pictures show as the goal.
    service_level_goal: Annotated[float, Field(gt=0, le=1)] = 0.8
    read_copy_seconds: PositiveInt = 300
    # An agent who says nothing for longer is unknown; OFF_QUEUE lasts until something else is said.
    longest_status_hours: PositiveInt = 168


class ErasureSettings(_Section):
    """erase-customer: the secret of the digests by which erased callers are known again."""

    key: SecretStr | None = None


Days = Annotated[int, Field(ge=1, le=36_500)]


BUILT_FROM_EVENTS = ("conversations", "intervals", "daily", "field_usage")
"""Datasets of ``[retention]`` that loads build from events."""


class RetentionSettings(_Section):
    """Days that are kept before the day of the run, UTC, by dataset; without a number all are: docs/retention.md."""

    # Landing files, by the day of their events, at the latest of their writing.
    landing_days: Days | None = None
    # Events, by the vendor's time.
    events_days: Days | None = None
    # Conversations, by their last event.
    conversations_days: Days | None = None
    # Interval cells of queues and agents.
    intervals_days: Days | None = None
    # Daily analytics.
    daily_days: Days | None = None
    # Use of metadata fields; promotion looks back on it.
    field_usage_days: Annotated[int, Field(ge=90, le=36_500)] | None = None
    # Counts of dead letters with a sample each; while they are on Kafka they may be replayed, and are counted.
    failed_events_days: Annotated[int, Field(ge=14, le=36_500)] | None = None

    @model_validator(mode="after")
    def _what_is_built_outlives_events(self) -> Self:
        """Else a late event would build a fragment of a day that has expired."""
        for name in (f"{dataset}_days" for dataset in BUILT_FROM_EVENTS):
            kept = getattr(self, name)
            if kept is not None and (self.events_days is None or kept < self.events_days):
                msg = (
                    f"{name} = {kept} is shorter than events_days, and late events would build a part of what has "
                    f"expired; set events_days to at most {kept}"
                )
                raise ValueError(msg)
        return self


class QualitySettings(_Section):
    """quality-checks and freshness: docs/quality.md."""

    # A tenant's newest interval that ended longer ago is late; a tenant may have a number of its own.
    max_interval_age_minutes: PositiveInt = 60
    # How long results are kept.
    keep_days: PositiveInt = 30
    # Records of the bus that one run compares with the warehouse; the next one goes on there.
    max_bus_records: PositiveInt = 500_000


class ExportSettings(_Section):
    """Interval files for WFM tools; docs/wfm-export.md."""

    # Empty: below data_dir.
    folder: Annotated[Path, AfterValidator(_absolute)] | None = None
    formats: Annotated[tuple[Literal["csv", "parquet"], ...], Field(min_length=1)] = ("csv", "parquet")


class HealthSettings(_Section):
    """Ports of ``/healthz``, ``/readyz`` and ``/metrics`` by service; 0 lets the system choose a free one."""

    host: str = "127.0.0.1"
    genesys_ingest: Annotated[int, Field(ge=0, le=65535)] = 8101
    cxone_publisher: Annotated[int, Field(ge=0, le=65535)] = 8103
    analytics_sink: Annotated[int, Field(ge=0, le=65535)] = 8104
    crm_sync: Annotated[int, Field(ge=0, le=65535)] = 8105
    wfm_realtime: Annotated[int, Field(ge=0, le=65535)] = 8106


def _block(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+", value):
        msg = "must be a block's type and name, for example slack-webhook/on-call"
        raise ValueError(msg)
    return value


class AlertsSettings(_Section):
    """Who is told: notification blocks on the Prefect server, as type/name; ``ccaas alerts install`` uses them."""

    blocks: tuple[Annotated[str, AfterValidator(_block)], ...] = ()


def topic_name(kind: str, vendor: str, tenant_id: str) -> str:
    """Name of a tenant's topic of a kind, for example ``events``."""
    return f"ccaaus.{kind}.{vendor}.{tenant_id}"


def owner_of(topic: str, kind: str) -> tuple[str, str] | None:
    """Vendor and tenant whose topic of the kind it is, by its name; None if it is no such topic's."""
    match = _TOPIC.fullmatch(topic)
    return (match[2], match[3]) if match and match[1] == kind else None


class Tenant(_Section):
    """One tenant of one vendor. ``connection`` is validated by the vendor's package."""

    tenant_id: Name
    vendor: Name
    partition_key: Literal["event_id", "conversation_id"] = "event_id"
    partitions: PositiveInt = 4
    value_class: Literal["high", "standard"] = "standard"
    # Instead of quality.max_interval_age_minutes.
    max_interval_age_minutes: PositiveInt | None = None
    connection: dict[str, Any] = Field(default_factory=dict, repr=False)

    @property
    def retention_ms(self) -> int:
        """Kafka retention of the tenant's topics, ms."""
        return HIGH_VALUE_RETENTION_MS if self.value_class == "high" else STANDARD_RETENTION_MS

    @property
    def events_topic(self) -> str:
        """Topic of the tenant's canonical events."""
        return self.topic("events")

    @property
    def dlq_topic(self) -> str:
        """Topic of the tenant's dead letters."""
        return self.topic("dlq")

    def topic(self, kind: str) -> str:
        """Name of the tenant's topic of a kind, for example ``crm.state``."""
        return topic_name(kind, self.vendor, self.tenant_id)


class Settings(BaseSettings):
    """Everything that is configured, once."""

    model_config = SettingsConfigDict(
        env_prefix="CCAAS_", env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    data_dir: Path = Path(".ccaas")
    log_format: Literal["console", "json"] = "console"
    kafka: KafkaSettings = KafkaSettings()
    registry: RegistrySettings = RegistrySettings()
    producer: ProducerSettings = ProducerSettings()
    receiver: ReceiverSettings = ReceiverSettings()
    spool: SpoolSettings = SpoolSettings()
    sink: SinkSettings = SinkSettings()
    crm: CrmSettings = CrmSettings()
    wfm: WfmSettings = WfmSettings()
    state: StateSettings = StateSettings()
    warehouse: WarehouseSettings = WarehouseSettings()
    retention: RetentionSettings = RetentionSettings()
    erasure: ErasureSettings = ErasureSettings()
    quality: QualitySettings = QualitySettings()
    export: ExportSettings = ExportSettings()
    health: HealthSettings = HealthSettings()
    alerts: AlertsSettings = AlertsSettings()
    # What a vendor's package lets one set for all its tenants together, by vendor; validated by the package.
    vendors: dict[str, dict[str, Any]] = Field(default_factory=dict, repr=False)
    tenants: tuple[Tenant, ...] = ()

    @model_validator(mode="after")
    def _data_dir_lies_beside_the_file(self) -> Self:
        file = config_file()
        if not self.data_dir.is_absolute() and file.is_file():
            object.__setattr__(self, "data_dir", file.absolute().parent / self.data_dir)
        return self

    @model_validator(mode="after")
    def _tenants_are_unique(self) -> Self:
        seen: set[tuple[str, str]] = set()
        for tenant in self.tenants:
            key = (tenant.vendor, tenant.tenant_id)
            if key in seen:
                msg = f"tenants: {tenant.tenant_id!r} of vendor {tenant.vendor!r} is given twice; remove one"
                raise ValueError(msg)
            seen.add(key)
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (signature is pydantic-settings')
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then the TOML file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file()))

    @classmethod
    def from_file(cls, file: Path) -> Self:
        """Settings of another file than the one in force. The environment and the file in force play no part.

        Raises:
            ConfigurationError: see :func:`load_settings`.
        """

        class FileSettings(cls):  # type: ignore[valid-type,misc]  # mypy can't know that cls is a class of settings
            @classmethod
            def settings_customise_sources(
                cls,
                settings_cls: type[BaseSettings],  # noqa: ARG003 (signature is pydantic-settings')
                init_settings: PydanticBaseSettingsSource,
                *_others: PydanticBaseSettingsSource,
                **_named: PydanticBaseSettingsSource,
            ) -> tuple[PydanticBaseSettingsSource, ...]:
                return (init_settings,)

        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
            # Made absolute here: the validator would look at the file in force.
            values["data_dir"] = file.absolute().parent / values.get("data_dir", ".ccaas")
            settings: Self = FileSettings(**values)
        except ValidationError as error:
            raise ConfigurationError(describe(error, str(file))) from None
        return settings

    @property
    def spool_dir(self) -> Path:
        """Folder of the receivers' spools: on a local disk, one file a receiver."""
        return self.data_dir / "spool"

    @property
    def landing_dir(self) -> Path:
        """Folder of the landing zone (Parquet), unless ``sink.landing`` names another place."""
        return self.data_dir / "landing"

    @property
    def landing(self) -> str:
        """Path or URL of the landing zone."""
        return self.sink.landing or str(self.landing_dir)

    @property
    def export_dir(self) -> Path:
        """Folder of the interval files for WFM tools."""
        return self.export.folder or self.data_dir / "export"

    @property
    def state_url(self) -> str:
        """SQLAlchemy URL of the state database, password revealed."""
        return self.state.url.get_secret_value() if self.state.url else f"sqlite:///{self.data_dir}/state.db"

    @property
    def warehouse_url(self) -> str:
        """SQLAlchemy URL of the warehouse, password revealed."""
        url = self.warehouse.url
        return url.get_secret_value() if url else f"duckdb:///{self.data_dir}/warehouse.duckdb"

    def tenants_of(self, vendor: str) -> tuple[Tenant, ...]:
        """The tenants of one vendor, in the file's order."""
        return tuple(tenant for tenant in self.tenants if tenant.vendor == vendor)


def config_file() -> Path:
    """The TOML file in force: ``CCAAS_CONFIG`` or ``./ccaas.toml``."""
    return Path(os.environ.get("CCAAS_CONFIG", "ccaas.toml"))


def load_settings() -> Settings:
    """Read the settings.

    Raises:
        ConfigurationError: naming file, field and remedy; values are left out of the message, they may be secrets.
    """
    named = os.environ.get("CCAAS_CONFIG")
    if named and not Path(named).is_file():
        msg = f"CCAAS_CONFIG names {named}, which is no file: create it or unset the variable"
        raise ConfigurationError(msg)
    try:
        settings = Settings()
    except ValidationError as error:
        raise ConfigurationError(describe(error, str(config_file()))) from None
    except SettingsError as error:  # a variable that should be JSON
        msg = f"environment: {error}; lists and tables in a CCAAS_… variable are JSON"
        raise ConfigurationError(msg) from None
    except ValueError as error:  # tomllib's syntax errors
        msg = f"{config_file()}: {error}; mend the line or compare with docs/configuration.md"
        raise ConfigurationError(msg) from None
    if settings.tenants and not settings.data_dir.is_absolute():
        # A Prefect worker runs each flow in a temporary folder of its own: what lay there would be lost with it.
        msg = (
            f"data_dir: {settings.data_dir} is relative, but no file is in force that it could be relative to; "
            "give an absolute path in CCAAS_DATA_DIR or a file in CCAAS_CONFIG"
        )
        raise ConfigurationError(msg)
    return settings


def describe(error: ValidationError, where: str) -> str:
    """One line a fault: where, field, what is wrong. Never the value given."""
    lines = [
        f"{where}: {'.'.join(str(part) for part in fault['loc']) or 'settings'}: {fault['msg']}"
        for fault in error.errors(include_input=False, include_url=False)
    ]
    lines.append("Mend the field in that file or in its CCAAS_… variable; docs/configuration.md lists all.")
    return "\n".join(lines)
