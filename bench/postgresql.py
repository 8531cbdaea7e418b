"""``postgresql``: landing files into PostgreSQL beside a bare COPY of the same rows; cells, and one late event."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psycopg
import sqlalchemy as sa

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.landed import land, land_late
from bench.loading import measured
from devstack.postgres import temporary_postgres

_MILLION = 1_000_000
_SIZE = "CCAAS_BENCH_POSTGRESQL_MILLIONS"
_CHUNK = 1 << 20
_INDEXED = "bare COPY, same indexes"
_PLAIN = "bare COPY, no index"


def run(lab: Lab, rounds: int) -> list[Figure]:
    """Every round: ours into an empty database, then its rows, as text, by COPY into an empty table like ``events``.

    The server is a local one without fsync, for both. ``CCAAS_BENCH_POSTGRESQL_MILLIONS``: how many events ("1").
    """
    events = int(float(os.environ.get(_SIZE, "1")) * _MILLION)
    folder = lab.folder / "postgresql"
    landing, text = folder / "landing", folder / "events.copy"
    land(landing, events)
    ours, indexed, plain, builds, late = [], [], [], [], []
    with temporary_postgres() as server:
        for number in range(rounds):
            url = _database(server.url, f"bench_{number}")
            ours.append(events / measured("load", url, landing).seconds)
            with psycopg.connect(url) as connection:
                if not number:
                    _save(connection, text)
                indexed.append(events / _copy(connection, text, "CREATE TABLE bare (LIKE events INCLUDING ALL)"))
                plain.append(events / _copy(connection, text, "CREATE TABLE bare (LIKE events)"))
            builds.append(measured("intervals", url, landing).seconds)
            land_late(landing, events, number=number)
            late.append(measured("late", url, landing).seconds)
            for path in landing.glob("raw/*/*.parquet"):
                if path.stat().st_size < _CHUNK // 8:  # the late one: the next round has the same rows as this one
                    path.unlink()
            _drop(server.url, f"bench_{number}")
    name = f"{events / _MILLION:g} million events"
    goal = Goal(0.5, "ratio", "at least")
    return [
        Figure(f"{name} into PostgreSQL", "rows/s", ours, "more", _INDEXED, indexed, goal),
        Figure(f"{name} into PostgreSQL", "rows/s", ours, "more", _PLAIN, plain),
        Figure(f"{name}: cells of 90 days", "s", builds),
        Figure(f"one late event among {name}: loaded and its cells", "s", late),
    ]


def _database(server: str, name: str) -> str:
    _administer(server, f"CREATE DATABASE {name}")
    return sa.make_url(server).set(database=name, drivername="postgresql").render_as_string(hide_password=False)


def _drop(server: str, name: str) -> None:
    _administer(server, f"DROP DATABASE {name} (FORCE)")


def _administer(server: str, statement: str) -> None:
    url = sa.make_url(server).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def _save(connection: psycopg.Connection, text: Path) -> None:
    with text.open("wb") as file, connection.cursor().copy("COPY events TO STDOUT") as copy:
        for data in copy:
            file.write(data)


def _copy(connection: psycopg.Connection, text: Path, table: str) -> float:
    """Seconds until the rows are committed."""
    connection.execute(table.encode())
    connection.commit()
    began = time.perf_counter()
    with text.open("rb") as file, connection.cursor().copy("COPY bare FROM STDIN") as copy:
        while data := file.read(_CHUNK):
            copy.write(data)
    connection.commit()
    took = time.perf_counter() - began
    connection.execute("DROP TABLE bare")
    connection.commit()
    return took
