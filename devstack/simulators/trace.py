"""Reads a trace: the tab-separated call records of ``data/README.md``, plain or gzip-compressed.

What a row becomes (clock readings are UTC):

- PHANTOM: nothing.
- The call starts at vru_entry; at vru_exit if vru_time is negative, since then vru_entry is wrong.
- It is queued if an agent took it or q_time > 0: at q_start if q_time > 0, else at vru_exit. Its wait is q_time.
- AGENT: answered q_time after it was queued, over ser_time later. q_exit and ser_start, which differ by a second or
  two in the real file, play no part.
- HANG: over q_time after it was queued; at vru_exit if it never was. A service time is ignored.
- A clock reading earlier than the one before it in the row is of the next day; other times past midnight come by
  addition.
"""

from __future__ import annotations

import gzip
import re
import zlib
from calendar import timegm
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

from streaming.errors import ConfigurationError

NO_SERVER = "NO_SERVER"
"""What the trace writes for an answered call whose agent is not known."""

COLUMNS = (
    "vru+line", "call_id", "customer_id", "priority", "type", "date", "vru_entry", "vru_exit", "vru_time",
    "q_start", "q_exit", "q_time", "outcome", "ser_start", "ser_exit", "ser_time", "server",
)  # fmt: skip
"""The header, in order."""

_DAY_S = 86_400
_GZIP_MAGIC = b"\x1f\x8b"
_WORD = r"\S(?:.{0,98}\S)?"
_SECONDS = (r"\d{1,6}", "whole seconds, 0 or more")
_CLOCK = (r"(?:[01]?\d|2[0-3]):[0-5]\d:[0-5]\d", "a clock reading h:mm:ss")
# The real file holds a few customer ids that a spreadsheet turned into powers of ten, such as 3.27E+11.
_RULES: dict[str, tuple[str, str]] = {
    "vru+line": (r"[A-Z]{2}\d{4}", "an IVR and a line, such as AA0101"),
    "call_id": (r"\d{1,18}", "digits"),
    "customer_id": (r"\d{1,18}|\d(?:\.\d+)?E\+\d+", "digits"),
    "priority": (r"\d{1,2}", "0, 1 or 2"),
    "type": (_WORD, "the service asked for, such as PS"),
    "date": (r"\d{6}", "a date yymmdd"),
    "vru_entry": _CLOCK, "vru_exit": _CLOCK, "vru_time": (r"-?\d{1,6}", "whole seconds"),
    "q_start": _CLOCK, "q_exit": _CLOCK, "q_time": _SECONDS,
    "outcome": (r"AGENT|HANG|PHANTOM", "AGENT, HANG or PHANTOM"),
    "ser_start": _CLOCK, "ser_exit": _CLOCK, "ser_time": _SECONDS,
    "server": (_WORD, f"an agent's name or {NO_SERVER}"),
}  # fmt: skip
_MATCH = tuple((column, re.compile(_RULES[column][0]).fullmatch, _RULES[column][1]) for column in COLUMNS)
_REMEDY = "mend the row or give another trace; data/README.md explains the columns"


class NoCallsError(ConfigurationError):
    """A trace without calls of the IVR wanted, on the dates wanted."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, free of any vendor's words. Instants are epoch ms, UTC.

    Attributes:
        conversation_id: ``{vru+line}-{yyyymmdd of the moved date}-{call_id}``.
        line: IVR and line that took the call.
        caller: Customer id, None if the caller did not identify.
        queue_id: Service asked for.
        day_ms: 00:00 of the call's (moved) date.
        started_ms: The call comes in.
        queued_ms: It enters the queue, None if it never does.
        wait_ms: Time in the queue, ms.
        answered_ms: An agent takes it, None if none does.
        talk_ms: Time with the agent, ms.
        ended_ms: It is over.
        agent_id: Who answered (may be ``NO_SERVER``), None if nobody.
    """

    conversation_id: str
    line: str
    caller: str | None
    queue_id: str
    day_ms: int
    started_ms: int
    queued_ms: int | None
    wait_ms: int
    answered_ms: int | None
    talk_ms: int
    ended_ms: int
    agent_id: str | None

    @property
    def hung_up(self) -> bool:
        """Whether the caller gave up, in the queue or in the IVR."""
        return self.answered_ms is None


def read_trace(path: Path, *, ivr: str, shift_days: int = 0, first_dates: int | None = None) -> list[Call]:
    """The calls of one IVR, in the file's order. Every row is checked, whichever IVR it is of.

    Args:
        path: The trace.
        ivr: First four characters of ``vru+line``, such as ``AA01``.
        shift_days: Whole days by which every date is moved.
        first_dates: Take only so many of the file's earliest dates (counted over all IVRs); None takes all.

    Raises:
        ConfigurationError: the file can't be read or is no trace; names file, line, column and remedy.
        NoCallsError: it holds no call of that IVR on those dates.
    """
    if first_dates is not None and first_dates < 1:
        msg = f"first dates: {first_dates} is too few; give 1 or more"
        raise ConfigurationError(msg)
    calls: list[Call] = []
    days: set[int] = set()
    seen: set[tuple[str, str, str]] = set()
    midnight = cache(lambda yymmdd: _midnight(yymmdd, shift_days))
    for number, row in _rows(path):
        try:
            day_ms, day = midnight(row["date"])
        except (ValueError, OverflowError):
            _refuse(path, number, "date", row["date"], f"a date yymmdd that, moved by {shift_days} days, exists")
        key = (row["vru+line"], row["date"], row["call_id"])
        if key in seen:
            _refuse(path, number, "call_id", row["call_id"], "unique together with vru+line and date")
        seen.add(key)
        days.add(day_ms)
        if row["vru+line"].startswith(ivr) and row["outcome"] != "PHANTOM":
            calls.append(_call(row, day_ms, day))
    kept = set(sorted(days)[:first_dates])
    calls = [call for call in calls if call.day_ms in kept]
    if not calls:
        msg = f"{path}: no call of IVR {ivr} on the dates wanted; name another IVR or give another trace"
        raise NoCallsError(msg)
    return calls


def _call(row: dict[str, str], day_ms: int, day: str) -> Call:
    """A row that passed the checks, by the rules above."""
    queued, wait = None, int(row["q_time"])
    started, left_ivr = _in_ivr(row)
    if wait:
        queued = _after(_clock(row["q_start"]), left_ivr)
    elif row["outcome"] == "AGENT":
        queued = left_ivr
    answered, talk = None, 0
    if row["outcome"] == "AGENT":
        # queued is set in both cases above. A HANG row's service time is a fault of the recording: left out.
        answered, talk = (queued or 0) + wait, int(row["ser_time"])
        ended = answered + talk
    else:
        ended = left_ivr if queued is None else queued + wait

    def instant(second: int | None) -> int | None:
        return None if second is None else day_ms + second * 1000

    customer = row["customer_id"]
    return Call(
        conversation_id=f"{row['vru+line']}-{day}-{row['call_id']}",
        line=row["vru+line"],
        caller=customer if customer.isdigit() and int(customer) else None,
        queue_id=row["type"],
        day_ms=day_ms,
        started_ms=day_ms + started * 1000,
        queued_ms=instant(queued),
        wait_ms=wait * 1000,
        answered_ms=instant(answered),
        talk_ms=talk * 1000,
        ended_ms=day_ms + ended * 1000,
        agent_id=row["server"] if answered is not None else None,
    )


def _in_ivr(row: dict[str, str]) -> tuple[int, int]:
    """Seconds of the day at which the call came in and left the IVR."""
    entry, leave = _clock(row["vru_entry"]), _clock(row["vru_exit"])
    if int(row["vru_time"]) < 0:  # entry is wrong, not exit: the queue begins at exit
        return leave, leave
    return entry, _after(leave, entry)


def _after(clock: int, before: int) -> int:
    """The clock reading as seconds of the call's date: one that lies before its predecessor is of the next day."""
    reading = clock + before // _DAY_S * _DAY_S
    return reading if reading >= before else reading + _DAY_S


def _clock(text: str) -> int:
    hours, minutes, seconds = text.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds)


def _midnight(yymmdd: str, shift_days: int) -> tuple[int, str]:
    """Epoch ms and yyyymmdd of a moved date. Two-digit years as POSIX has them: 69 to 99 are 19xx."""
    recorded = datetime.strptime(yymmdd, "%y%m%d").date()  # noqa: DTZ007 (a date, no instant)
    moved = recorded + timedelta(days=shift_days)
    if moved < date(1970, 1, 1):
        raise OverflowError
    return timegm(moved.timetuple()) * 1000, f"{moved:%Y%m%d}"


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line numbers and rows, every field checked."""
    try:
        with _open(path) as file:
            header = file.readline().rstrip("\r\n").split("\t")
            if header != list(COLUMNS):
                _refuse_header(path, header)
            for number, line in enumerate(file, start=2):
                fields = line.rstrip("\r\n").split("\t")
                if fields == [""]:
                    continue
                yield number, _checked(path, number, fields)
    except UnicodeDecodeError as error:
        msg = f"{path}: not UTF-8 text ({error.reason}); give a tab-separated trace, plain or gzip-compressed"
        raise ConfigurationError(msg) from None
    except (EOFError, zlib.error, OSError) as error:
        msg = f"{path}: can't be read ({error}); check the path, or copy the file again if it is damaged"
        raise ConfigurationError(msg) from None


def _checked(path: Path, number: int, fields: list[str]) -> dict[str, str]:
    if len(fields) != len(COLUMNS):
        msg = f"{path}, line {number}: {len(fields)} tab-separated columns, {len(COLUMNS)} are needed; {_REMEDY}"
        raise ConfigurationError(msg)
    for (column, match, needed), value in zip(_MATCH, fields, strict=True):
        if match(value) is None:
            _refuse(path, number, column, value, needed)
    return dict(zip(COLUMNS, fields, strict=True))


def _open(path: Path) -> IO[str]:
    with path.open("rb") as probe:
        packed = probe.read(2) == _GZIP_MAGIC
    opener: Callable[..., IO[str]] = gzip.open if packed else open
    return opener(path, "rt", encoding="utf-8", newline="\n")


def _refuse(path: Path, number: int, column: str, value: str, needed: str) -> NoReturn:
    msg = f"{path}, line {number}, column {column}: {value[:60]!r} is not {needed}; {_REMEDY}"
    raise ConfigurationError(msg)


def _refuse_header(path: Path, header: list[str]) -> NoReturn:
    wanted = next((name for at, name in enumerate(COLUMNS) if at >= len(header) or header[at] != name), None)
    fault = (
        f"column {wanted} is missing or out of place"
        if wanted
        else f"column {header[len(COLUMNS)][:60]!r} is one too many"
    )
    msg = f"{path}, line 1 (header): {fault}; the first line must be, tab-separated: {' '.join(COLUMNS)}"
    raise ConfigurationError(msg)
