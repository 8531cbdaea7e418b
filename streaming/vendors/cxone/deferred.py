"""What was set aside is published once it is proven, or becomes a dead letter when nobody vouched for it in time.

A webhook whose signature was in doubt is proven if it verifies under the keys now current, its replay window measured
at its arrival, or if the vendor's REST API says that all of its events happened. A row leaves the spool only when Kafka
has everything of it; a run that is killed is repeated with the same ids.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import httpx
import orjson
import structlog

from schemas.canonical import REST_NEAR_MS, CanonicalEvent
from schemas.normalise import normaliser
from schemas.registry import Registry
from streaming.bus_window import MARGIN, BusWindow
from streaming.errors import CcaasError, ConfigurationError, ServiceUnavailableError, UntrustedError
from streaming.instants import from_ms
from streaming.publisher import Publisher
from streaming.settings import Settings, Tenant, config_file
from streaming.spool.deferred import DeferredReader, DeferredRow
from streaming.spool.peek import pending_bodies, warn_if_missing
from streaming.spool.schema import spool_files
from streaming.topics import ensure_topics
from streaming.vendors import connection_of
from streaming.vendors.cxone.confirm import Question, Truth, ask
from streaming.vendors.cxone.connection import VENDOR, CxoneConnection
from streaming.vendors.cxone.contacts import contacts_api
from streaming.vendors.cxone.keys import current_keys
from streaming.vendors.cxone.keystore import KeyStore
from streaming.vendors.cxone.messages import normalise_body
from streaming.vendors.cxone.release import Exit, KafkaSilentError
from streaming.vendors.cxone.signature import (
    SIGNATURE_HEADER,
    TIMESTAMP_HEADER,
    HmacVerifier,
    JwsVerifier,
    Verifier,
)

log = structlog.get_logger()

_ROWS = 500
_BYTES = 8 * 1024 * 1024
_TOLERANCE = timedelta(milliseconds=REST_NEAR_MS)


class _Lane(NamedTuple):
    """A tenant's deferred rows in one spool."""

    reader: DeferredReader
    key: int

    def waiting(self) -> int:
        """How many rows it holds now."""
        return sum(rows for key, _, rows in self.reader.waiting() if key == self.key)


@dataclass
class TenantReport:
    """What became of a tenant's deferred webhook requests.

    Attributes:
        tenant_id: Whose.
        verified: Published, since they verify under the current keys.
        confirmed: Published, since REST says so.
        expired: Dead letters.
        waiting: Still set aside.
        events: Canonical events published.
        error: Why the run could not do all it should; then nothing expires.
    """

    tenant_id: str
    verified: int = 0
    confirmed: int = 0
    expired: int = 0
    waiting: int = 0
    events: int = 0
    error: CcaasError | None = None


@dataclass
class DeferredReport:
    """A run's report.

    Attributes:
        tenants: Those that had rows.
        busy: Spools that another run works on.
        unreadable: Spools that could not be opened, and why; the others were worked on.
    """

    tenants: list[TenantReport] = field(default_factory=list)
    busy: list[str] = field(default_factory=list)
    unreadable: dict[str, Exception] = field(default_factory=dict)

    def check(self) -> None:
        """Raise if rows could not be examined in full.

        Raises:
            ServiceUnavailableError: a vendor or Kafka does not answer; the rows stay for the next run.
            ConfigurationError: a setting is wrong, a tenant is gone from the settings, or a spool has another layout.
        """
        failed: dict[str, Exception] = self.unreadable | {
            item.tenant_id: item.error for item in self.tenants if item.error is not None
        }
        if not failed:
            return
        msg = "; ".join(f"{name}: {error}" for name, error in failed.items())
        if any(isinstance(error, ServiceUnavailableError | sqlite3.Error) for error in failed.values()):
            raise ServiceUnavailableError(msg)
        raise ConfigurationError(msg)


def process_deferred(settings: Settings, *, now: datetime, max_seconds: float = 240) -> DeferredReport:
    """Publish the deferred webhooks that are proven now, dead-letter those too old. Receivers may run; so may a copy.

    Args:
        settings: The platform's.
        now: Rows that arrived ``deferred_limit_hours`` before it are too old; UTC.
        max_seconds: The run begins no further batch after so long; each tenant has an equal share of what is left, so
            that a flood into one lane does not starve another.

    Raises:
        ConfigurationError: ``now`` has no time zone.
        ServiceUnavailableError: the schema registry or Kafka does not answer at the start. What hinders the work on a
            spool or a tenant is in the report.
    """
    if now.tzinfo is None:
        msg = "now: a time with a zone is needed, e.g. datetime.now(UTC)"
        raise ConfigurationError(msg)
    report = DeferredReport()
    readers: list[DeferredReader] = []
    if settings.tenants_of(VENDOR):
        warn_if_missing(settings.spool_dir)
    try:
        for path in spool_files(settings.spool_dir):
            try:
                reader = DeferredReader.claim(path)
            except (CcaasError, sqlite3.Error) as error:
                log.error("spool left out", spool=path.name, error=str(error))
                report.unreadable[path.name] = error
                continue
            if reader is None:
                report.busy.append(path.name)
            else:
                readers.append(reader)
        lanes = _lanes(readers)
        if lanes:
            asyncio.run(_process(settings, lanes, now, max_seconds, report))
    finally:
        for reader in readers:
            reader.close()
    return report


def _lanes(readers: Sequence[DeferredReader]) -> dict[str, list[_Lane]]:
    """The lanes that hold rows, by tenant."""
    lanes: dict[str, list[_Lane]] = {}
    for reader in readers:
        for key, name, _ in reader.waiting():
            lanes.setdefault(name, []).append(_Lane(reader, key))
    return lanes


async def _process(
    settings: Settings, lanes: dict[str, list[_Lane]], now: datetime, max_seconds: float, report: DeferredReport
) -> None:
    known = {tenant.tenant_id: tenant for tenant in settings.tenants_of(VENDOR)}
    for name in lanes.keys() - known.keys():
        log.error("the spool holds deferred events of a tenant that the settings don't know; they stay", tenant_id=name)
        msg = (
            f"{config_file()}: tenants: no cxone/{name}, but the spool holds its deferred webhooks; add the tenant "
            "again until they are gone, or move the spool away"
        )
        waiting = sum(lane.waiting() for lane in lanes[name])
        report.tenants.append(TenantReport(name, waiting=waiting, error=ConfigurationError(msg)))
    tenants = [tenant for name, tenant in known.items() if name in lanes]
    if not tenants:
        return
    ensure_topics(settings.kafka, tenants)
    begun = time.monotonic()
    with closing(Registry(settings.registry)) as registry, closing(KeyStore(settings.state_url)) as store:
        publisher = Publisher(settings, registry.encoder(), "cxone-deferred")
        try:
            async with httpx.AsyncClient(timeout=30) as http:
                for number, tenant in enumerate(tenants):
                    deadline = begun + max_seconds * (number + 1) / len(tenants)
                    work = _TenantWork(settings, tenant, lanes[tenant.tenant_id], publisher, registry, deadline)
                    report.tenants.append(work.report)
                    await work.run(http, store, now)
                    if isinstance(work.report.error, KafkaSilentError):
                        return  # the report says so; the other tenants' rows stay as well
        finally:
            publisher.close()


class _TenantWork:
    """One tenant in one run: 1. what verifies is published, 2. REST is asked about the rest, 3. it decides."""

    def __init__(  # noqa: PLR0917 (all that the work needs)
        self,
        settings: Settings,
        tenant: Tenant,
        lanes: list[_Lane],
        publisher: Publisher,
        registry: Registry,
        deadline: float,
    ) -> None:
        self.report = TenantReport(tenant.tenant_id)
        self._settings = settings
        self._registry = registry
        self._tenant = tenant
        self._lanes = lanes
        self._exit = Exit(tenant, publisher)
        self._deadline = deadline
        # How far each lane was examined for signatures; what comes later is the next run's.
        self._examined: dict[_Lane, int] = {}
        self._question = Question()

    async def run(self, http: httpx.AsyncClient, store: KeyStore, now: datetime) -> None:
        """All three steps; an error ends them and is in the report."""
        report = self.report
        try:
            connection = connection_of(self._tenant, CxoneConnection)
            self._publish_verified(await self._verifier(http, store, connection))
            if any(self._examined.values()):
                contacts = contacts_api(http, connection)
                truth = await ask(
                    contacts,
                    self._question,
                    tenant_id=self._tenant.tenant_id,
                    tolerance=_TOLERANCE,
                    longest=timedelta(hours=connection.longest_contact_hours),
                )
                self._note_known(truth)
                oldest = now - timedelta(hours=connection.deferred_limit_hours)
                self._decide(truth, oldest, connection.deferred_limit_hours)
        except CcaasError as error:
            log.error("deferred webhooks stay", tenant_id=self._tenant.tenant_id, error=str(error))
            report.error = error
        report.events = self._exit.events
        report.waiting = sum(lane.waiting() for lane in self._lanes)
        log.info(
            "deferred webhooks processed",
            tenant_id=report.tenant_id,
            verified=report.verified,
            confirmed=report.confirmed,
            expired=report.expired,
            waiting=report.waiting,
        )

    async def _verifier(self, http: httpx.AsyncClient, store: KeyStore, connection: CxoneConnection) -> Verifier:
        if connection.hmac_secret is not None and connection.signature == "hmac":
            return HmacVerifier(connection.hmac_secret.get_secret_value(), connection.replay_window_seconds)
        verifier = JwsVerifier(connection.replay_window_seconds)
        assert connection.jwks_url is not None  # CxoneConnection checks it  # noqa: S101
        keys, error = await current_keys(http, self._tenant, connection.jwks_url, store)
        if error is not None:
            log.warning("keys not fetched anew", tenant_id=self._tenant.tenant_id, error=error)
        if time.time() <= keys.fetched_at + connection.keys_ttl_hours * 3600:
            verifier.use_keys(keys.keys)
        return verifier

    def _publish_verified(self, verifier: Verifier) -> None:
        for lane in self._lanes:
            self._examined[lane] = 0
            for rows in self._batches(lane):
                good = [row for row in rows if _verifies(verifier, row)]
                self.report.verified += self._exit.publish(lane.reader, good)
                if len(good) < len(rows):
                    self._examined[lane] = rows[-1].seq
                    left = {row.seq for row in rows} - {row.seq for row in good}
                    self._ask_about(row for row in rows if row.seq in left)

    def _ask_about(self, rows: Iterator[DeferredRow]) -> None:
        for row in rows:
            events, failure = normalise_body(normaliser(VENDOR), row.body, self._tenant.tenant_id)
            if failure is None:  # else REST could not confirm all of it
                self._question.add(events, row.received_us)

    def _note_known(self, truth: Truth) -> None:
        """Let events that came another way use up what REST tells: spools first, since they drain to the bus."""
        times = [event["timestamp"] for event in self._agreeing(truth)]
        if not times:
            return
        since = from_ms(min(times)) - 2 * _TOLERANCE
        until = from_ms(max(times)) + 2 * _TOLERANCE
        known: dict[str, CanonicalEvent] = {}
        tenant_id = self._tenant.tenant_id
        for body in pending_bodies(self._settings.spool_dir, tenant_id, int((since - MARGIN).timestamp() * 1e6)):
            for event in normalise_body(normaliser(VENDOR), body, tenant_id).events:
                if truth.is_told(event):
                    known[event["event_id"]] = event
        with BusWindow(self._settings, self._tenant, self._registry.decoder()) as bus:
            for events in bus.events(since, until):
                known |= {event["event_id"]: event for event in events if truth.is_told(event)}
        truth.use(known.values())

    def _agreeing(self, truth: Truth) -> Iterator[CanonicalEvent]:
        """Events of the rows that REST would confirm if nobody has used what it tells."""
        for lane in self._lanes:
            for rows in self._batches(lane, self._examined[lane]):
                for row in rows:
                    events, failure = normalise_body(normaliser(VENDOR), row.body, self._tenant.tenant_id)
                    if failure is None and truth.agrees(events):
                        yield from events

    def _decide(self, truth: Truth, oldest: datetime, limit_hours: float) -> None:
        """Publish what REST confirms, dead-letter what is too old; the rest stays.

        Too old is also what REST was not asked about, since it lay in too many hours: else a flood would never go.
        """
        why = (
            f"neither newer keys nor the vendor's REST API vouched for it in {limit_hours:g} h, or it came another way"
        )
        oldest_us = int(oldest.astimezone(UTC).timestamp() * 1e6)
        for lane in self._lanes:
            for rows in self._batches(lane, self._examined[lane]):
                confirmed = [row for row in rows if self._is_confirmed(row, truth)]
                self.report.confirmed += self._exit.publish(lane.reader, confirmed)
                done = {row.seq for row in confirmed}
                expired = [row for row in rows if row.seq not in done and row.received_us < oldest_us]
                self.report.expired += self._exit.dead_letter(lane.reader, expired, why)

    def _is_confirmed(self, row: DeferredRow, truth: Truth) -> bool:
        events, failure = normalise_body(normaliser(VENDOR), row.body, self._tenant.tenant_id)
        return failure is None and truth.confirms(events)

    def _batches(self, lane: _Lane, through: int | None = None) -> Iterator[list[DeferredRow]]:
        """The lane's rows in order of arrival, until the deadline; at least one batch."""
        seq = 0
        while rows := lane.reader.read(lane.key, seq, rows=_ROWS, max_bytes=_BYTES):
            if through is not None:
                rows = [row for row in rows if row.seq <= through]
                if not rows:
                    return
            seq = rows[-1].seq
            yield rows
            if time.monotonic() > self._deadline:
                log.warning("time is up; the next run goes on", tenant_id=self._tenant.tenant_id)
                return


def _verifies(verifier: Verifier, row: DeferredRow) -> bool:
    """Whether a row's signature is good under the verifier's keys, its window measured at the row's arrival."""
    try:
        kept = orjson.loads(row.signature)
        signature, timestamp = (kept[name.decode()].encode("latin-1") for name in (SIGNATURE_HEADER, TIMESTAMP_HEADER))
    except (ValueError, KeyError, AttributeError):
        log.error("signature headers of a deferred webhook are illegible", spool_row=row.seq)
        return False
    try:
        verifier.check(signature, timestamp, row.body, at=row.received_us / 1e6)
    except UntrustedError:
        return False
    return True
