"""Expected events less those that are somewhere already, in a scratch database: memory stays flat, whatever the window.

Only numbers are kept of an event: a hash of what makes it (type, contact, queue or agent) and its time. Two events are
the same occurrence if the hashes are equal and, for types with a time in their identity, the times are close enough; as
a multiset, so of two queue entries one that came does not stand for both.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import orjson

from schemas.canonical import IDENTITY, RECOVERED_KEY, CanonicalEvent, EventType
from schemas.fieldmap import load_field_map
from streaming.vendors.cxone.connection import VENDOR
from streaming.vendors.cxone.expected import RECONCILED, Native, State

Json = Any

_SCHEMA = """
CREATE TABLE contact (no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, body BLOB NOT NULL);
CREATE TABLE state (
    contact TEXT NOT NULL, at_ms INTEGER NOT NULL, name TEXT NOT NULL, skill TEXT NOT NULL, agent TEXT NOT NULL,
    PRIMARY KEY (contact, at_ms, name, skill, agent)
) WITHOUT ROWID;
CREATE TABLE expected (key INTEGER, at_ms INTEGER, type INTEGER, contact INTEGER, number INTEGER);
CREATE TABLE seen (key INTEGER, at_ms INTEGER, source INTEGER);
CREATE TABLE told (contact INTEGER PRIMARY KEY);
CREATE TABLE dead (contact TEXT, kind TEXT, body INTEGER, PRIMARY KEY (contact, kind, body)) WITHOUT ROWID;
CREATE TABLE missing (contact INTEGER, number INTEGER, type INTEGER);
CREATE TABLE bad (hash INTEGER PRIMARY KEY, body BLOB, message TEXT, reason TEXT, path TEXT);
CREATE TABLE known_bad (hash INTEGER PRIMARY KEY);
"""
# Of pages, and of each sort; what does not fit lies on disk.
_CACHE_KIB = 8 * 1024
_CHUNK = 10_000
# `number` of an expected event: which native event of its contact, and which canonical event of that one.
_EVENT_BITS = 3

_TYPES = tuple(EventType)
_NUMBER = {str(kind): number for number, kind in enumerate(_TYPES)}
_IDENTITY = {str(kind): (identity.keys, identity.timed) for kind, identity in IDENTITY.items()}
_NATIVE_OF = {rule.canonical.value: rule.native for rule in load_field_map(VENDOR).events}


class Source(IntEnum):
    """Where an event was found; of several that hold the same one the first counts."""

    EXPECTED = -1
    PUSHED = 0
    RECONCILED = 1
    SPOOL = 2
    DEFERRED = 3


# Their content is the vendor's own message; what is set aside may be anybody's.
_TOLD_BY = {Source.PUSHED, Source.SPOOL}


class BadRow(NamedTuple):
    """A REST row that can't be used."""

    body: bytes
    message: str
    reason: str
    path: str


class Tally(NamedTuple):
    """Canonical events by type."""

    expected: Counter[str]
    found: dict[Source, Counter[str]]
    dead: Counter[str]
    missing: Counter[str]


class Matching:
    """The scratch database of one run; it lies in an unnamed file that vanishes with the process.

    Fill it in this order: rows, :meth:`expect` for each of :meth:`contacts`, what is seen; then :meth:`settle`.

    Args:
        match_ms: How far apart the same occurrence may lie in REST and in a webhook.
    """

    def __init__(self, match_ms: int) -> None:
        self._match_ms = match_ms
        self._database = sqlite3.connect("", isolation_level=None)
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{_CACHE_KIB}", "temp_store=FILE"):
            self._database.execute(f"PRAGMA {pragma}")
        self._database.executescript(_SCHEMA)
        self._expected: list[tuple[int, int, int, int, int]] = []
        self._seen: list[tuple[int, int, int]] = []
        self._counts: Counter[str] = Counter()
        self.earliest_ms: int | None = None
        """Time of the first expected event, epoch ms."""
        self.latest_ms: int | None = None
        """Time of the last."""

    def close(self) -> None:
        """Give the disk back."""
        self._database.close()

    def add_contacts(self, rows: Iterable[tuple[str, Json]]) -> None:
        """Contact rows by id; one that came before is replaced."""
        self._many(
            "INSERT INTO contact (id, body) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body",
            ((contact, orjson.dumps(row)) for contact, row in rows),
        )

    def add_states(self, rows: Iterable[tuple[str, State]]) -> None:
        """States by contact; one that came before is dropped."""
        self._many(
            "INSERT OR IGNORE INTO state VALUES (?, ?, ?, ?, ?)",
            ((contact, state.at_ms, state.name, state.skill or "", state.agent or "") for contact, state in rows),
        )

    def add_bad(self, rows: Iterable[BadRow]) -> None:
        """Rows that can't be used; one that came before is dropped."""
        self._many("INSERT OR IGNORE INTO bad VALUES (?, ?, ?, ?, ?)", ((hash(row.body), *row) for row in rows))

    def contacts(self) -> Iterator[tuple[int, dict[str, Json], list[State]]]:
        """Number, row and states (by time) of every contact."""
        for number, contact, body in self._database.execute("SELECT no, id, body FROM contact"):
            yield number, orjson.loads(body), self._states(contact)

    def contact_count(self) -> int:
        """Contacts that were added."""
        return int(self._database.execute("SELECT count(*) FROM contact").fetchone()[0])

    def _states(self, contact: str) -> list[State]:
        query = "SELECT at_ms, name, skill, agent FROM state WHERE contact = ? ORDER BY at_ms"
        rows = self._database.execute(query, (contact,))
        return [State(at_ms, name, skill or None, agent or None) for at_ms, name, skill, agent in rows]

    def expect(self, contact: int, natives: list[Native], since_ms: int) -> int:
        """Note a contact's events from an instant on.

        Returns:
            How many lie before it, and so are not looked for.
        """
        earlier = 0
        for place, native in enumerate(natives):
            for index, event in enumerate(native.events):
                at_ms = event["timestamp"]
                if at_ms < since_ms:
                    earlier += 1
                    continue
                if self.earliest_ms is None or at_ms < self.earliest_ms:
                    self.earliest_ms = at_ms
                if self.latest_ms is None or at_ms > self.latest_ms:
                    self.latest_ms = at_ms
                key, comparable_ms = _key(event)
                kind = event["event_type"]
                self._counts[kind] += 1
                number = place << _EVENT_BITS | index
                self._expected.append((key, comparable_ms, _NUMBER[kind], contact, number))
        if len(self._expected) >= _CHUNK:
            self._flush()
        return earlier

    def see(self, events: Iterable[CanonicalEvent], source: Source) -> None:
        """Note events that are somewhere; reconciled ones on the bus are told apart by their metadata."""
        add = self._seen.append
        for event in events:
            if event["event_type"] not in _NUMBER:
                continue
            found = source
            if source == Source.PUSHED and event["metadata"].get(RECOVERED_KEY) == RECONCILED:
                found = Source.RECONCILED
            add((*_key(event), found))
        if len(self._seen) >= _CHUNK:
            self._flush()

    def see_dead(self, contact: str, kind: str, body: bytes) -> None:
        """Note a native event that is a dead letter; the same body again is a copy, not another event."""
        self._database.execute("INSERT OR IGNORE INTO dead VALUES (?, ?, ?)", (contact, kind, hash(body)))

    def know_bad(self, body: bytes) -> None:
        """Note a row that an earlier run made a dead letter."""
        self._database.execute("INSERT OR IGNORE INTO known_bad VALUES (?)", (hash(body),))

    def new_bad(self) -> Iterator[BadRow]:
        """Bad rows that no earlier run made dead letters."""
        query = "SELECT body, message, reason, path FROM bad WHERE hash NOT IN (SELECT hash FROM known_bad)"
        for row in self._database.execute(query):
            yield BadRow(*row)

    def settle(self) -> Tally:
        """Match everything.

        1. Same hash, close in time: found there. 2. What a contact's CALL_ENDED is said to have become,
        if that webhook is somewhere: its own content counts, and REST, whose durations may be off by one, is not asked.
        3. Dead letters of the same contact and native type, whatever is wrong with them. The rest is missing.
        """
        self._flush()
        found: dict[Source, Counter[str]] = {source: Counter() for source in Source if source != Source.EXPECTED}
        self._match(found)
        dead = self._explain()
        missing = Counter(
            {
                str(_TYPES[kind]): count
                for kind, count in self._database.execute("SELECT type, count(*) FROM missing GROUP BY type")
            }
        )
        return Tally(self._counts, found, dead, missing)

    def missing(self) -> Iterator[tuple[dict[str, Json], list[State], set[tuple[int, int]]]]:
        """Row, states and missing events (native's place, event's place) of each contact that lacks some."""
        rows = self._database.execute("SELECT contact, number FROM missing ORDER BY contact, number")
        for contact, group in groupby(rows, itemgetter(0)):
            places = {(number >> _EVENT_BITS, number & (1 << _EVENT_BITS) - 1) for _, number in group}
            identifier, body = self._database.execute(
                "SELECT id, body FROM contact WHERE no = ?", (contact,)
            ).fetchone()
            yield orjson.loads(body), self._states(identifier), places

    def _match(self, found: dict[Source, Counter[str]]) -> None:
        rows = self._database.execute(
            "SELECT key, at_ms, source, 0, 0, 0 FROM seen UNION ALL "
            "SELECT key, at_ms, -1, type, contact, number FROM expected ORDER BY 1, 2, 3"
        )
        missing: list[tuple[int, int, int]] = []
        told: list[tuple[int]] = []
        ended = _NUMBER[EventType.ENDED]
        for _, group in groupby(rows, itemgetter(0)):
            for (_, _, _, kind, contact, number), source in self._pair(list(group)):
                if source is None:
                    missing.append((contact, number, kind))
                    continue
                found[source][str(_TYPES[kind])] += 1
                if kind == ended and source in _TOLD_BY:
                    told.append((contact,))
            if len(missing) >= _CHUNK or len(told) >= _CHUNK:
                self._note(missing, told)
        self._note(missing, told)

    def _note(self, missing: list[tuple[int, int, int]], told: list[tuple[int]]) -> None:
        self._many("INSERT INTO missing VALUES (?, ?, ?)", missing)
        self._many("INSERT OR IGNORE INTO told VALUES (?)", told)
        missing.clear()
        told.clear()

    def _pair(self, rows: list[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], Source | None]]:
        """Of rows with one hash, by time: each expected one with where it was found."""
        wanted = [row for row in rows if row[2] == Source.EXPECTED]
        if not wanted:
            return
        # The identity has seconds: what lies within one is one event, however often it was seen.
        seen: dict[int, tuple[int, int]] = {}
        for _, at_ms, source, *_ in rows:
            if source != Source.EXPECTED and (at_ms // 1000 not in seen or source < seen[at_ms // 1000][1]):
                seen[at_ms // 1000] = (at_ms, source)
        times = sorted(seen.values())
        next_time = 0
        # Both by time, each expected one taking the first that is near enough: no other way matches more.
        for row in wanted:
            while next_time < len(times) and times[next_time][0] < row[1] - self._match_ms:
                next_time += 1
            if next_time < len(times) and times[next_time][0] <= row[1] + self._match_ms:
                yield row, Source(times[next_time][1])
                next_time += 1
            else:
                yield row, None

    def _explain(self) -> Counter[str]:
        """Steps 2 and 3 of :meth:`settle`; what they explain is no longer missing."""
        dead: Counter[str] = Counter()
        self._database.execute(
            "CREATE TABLE open AS SELECT m.contact, m.number, m.type, t.contact IS NOT NULL AS told, c.id "
            "FROM missing m JOIN contact c ON c.no = m.contact LEFT JOIN told t ON t.contact = m.contact"
        )
        self._database.execute("DELETE FROM missing")
        still: list[tuple[int, int, int]] = []
        rows = self._database.execute("SELECT contact, number, type, told, id FROM open ORDER BY contact, number")
        for (contact, identifier), group in groupby(rows, itemgetter(0, 4)):
            letters = dict(
                self._database.execute("SELECT kind, count(*) FROM dead WHERE contact = ? GROUP BY kind", (identifier,))
            )
            # One dead letter stands for one native event, with all that it would have become.
            covered: set[int] = set()
            for _, number, kind, told, _ in group:
                name = str(_TYPES[kind])
                native = _NATIVE_OF[name]
                place = number >> _EVENT_BITS
                if told and native == _NATIVE_OF[EventType.ENDED]:
                    self._counts[name] -= 1
                elif place in covered:
                    dead[name] += 1
                elif letters.get(native, 0):
                    letters[native] -= 1
                    covered.add(place)
                    dead[name] += 1
                else:
                    still.append((contact, number, kind))
            if len(still) >= _CHUNK:
                self._note(still, [])
        self._note(still, [])
        return dead

    def _flush(self) -> None:
        self._many("INSERT INTO expected VALUES (?, ?, ?, ?, ?)", self._expected)
        self._many("INSERT INTO seen VALUES (?, ?, ?)", self._seen)
        self._expected.clear()
        self._seen.clear()

    def _many(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        self._database.execute("BEGIN")
        self._database.executemany(statement, rows)
        self._database.execute("COMMIT")


def _key(event: CanonicalEvent) -> tuple[int, int]:
    """Hash of what makes the occurrence, and its time, 0 if that plays no part.

    64 bits: among ten million events two share one by chance with a likelihood of 3 in a million, and then they must
    lie within seconds of each other as well.
    """
    kind = event["event_type"]
    keys, timed = _IDENTITY[kind]
    return hash((kind, *map(event["payload"].get, keys))), event["timestamp"] if timed else 0
