"""``normalise``: from a vendor's bytes to the record's bytes, on one core, against the same work written plainly."""

from __future__ import annotations

import time
from collections.abc import Callable

import orjson

from bench.harness import Figure, Goal
from bench.lab import Lab
from bench.messages import cxone_call, genesys_call
from bench.peers import naive
from schemas.canonical import latest_schema
from schemas.codec import Encoder
from schemas.normalise import normaliser
from streaming.vendors.cxone.messages import normalise_body

_CALLS = 300
_PASSES = 5
_SCHEMA_ID = 1
_TENANT = "bench-normalise"

Work = Callable[[], int]
"""Handles all messages once and gives the number of canonical events."""


def run(_lab: Lab, rounds: int) -> list[Figure]:
    """Answered calls of both vendors in turn, each event with other ids. Needs no server."""
    calls = range(_CALLS)
    genesys = [orjson.dumps(message) for number in calls for message in genesys_call(number)]
    cxone = [orjson.dumps(message) for number in calls for message in cxone_call(number)]
    _require_equal_results(genesys, cxone)
    both = (_ours(genesys, cxone), _naive(genesys, cxone))
    ours_genesys, ours_cxone = _ours(genesys, []), _ours([], cxone)
    measured: list[list[float]] = [[], [], [], []]
    for _ in range(rounds):
        for work, values in zip((*both, ours_genesys, ours_cxone), measured, strict=True):
            values.append(_us_per_event(work))
    ours, peer, only_genesys, only_cxone = measured
    return [
        Figure(
            "normalise + encode",
            "µs/event",
            ours,
            peer="json + uuid5 + fastavro",
            peer_rounds=peer,
            goal=Goal(30.0, "value", "at most"),
        ),
        Figure("only Genesys", "µs/event", only_genesys),
        Figure("only CXone", "µs/event", only_cxone),
    ]


def _us_per_event(work: Work) -> float:
    """This thread's processor time: the other core and other programs don't count."""
    began = time.thread_time_ns()
    events = sum(work() for _ in range(_PASSES))
    return (time.thread_time_ns() - began) / 1000 / events


def _ours(genesys: list[bytes], cxone: list[bytes]) -> Work:
    encode = Encoder(latest_schema(), _SCHEMA_ID).encode
    from_stream, webhooks = normaliser("genesys").normalise, normaliser("cxone")

    def work() -> int:
        events = 0
        for raw in genesys:
            for event in from_stream(raw, _TENANT):
                encode(event)
                events += 1
        for body in cxone:
            for event in normalise_body(webhooks, body, _TENANT).events:
                encode(event)
                events += 1
        return events

    return work


def _naive(genesys: list[bytes], cxone: list[bytes]) -> Work:
    encode = naive.Encoder(latest_schema(), _SCHEMA_ID).encode

    def work() -> int:
        events = 0
        for raw in genesys:
            for event in naive.genesys(raw, _TENANT):
                encode(event)
                events += 1
        for body in cxone:
            for event in naive.cxone(body, _TENANT):
                encode(event)
                events += 1
        return events

    return work


def _require_equal_results(genesys: list[bytes], cxone: list[bytes]) -> None:
    """A ratio says something only if both did the same work."""
    from_stream, webhooks = normaliser("genesys").normalise, normaliser("cxone")
    ours = [from_stream(raw, _TENANT) for raw in genesys] + [
        normalise_body(webhooks, raw, _TENANT).events for raw in cxone
    ]
    plain = [naive.genesys(raw, _TENANT) for raw in genesys] + [naive.cxone(raw, _TENANT) for raw in cxone]
    for raw, own, other in zip([*genesys, *cxone], ours, plain, strict=True):
        if own != other:
            msg = (
                f"the plain normaliser gives another result for {raw!r}: {other}, not {own}; mend bench/peers/naive.py"
            )
            raise ValueError(msg)
