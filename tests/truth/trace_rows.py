"""Hand-made traces for the tests of the yardstick."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

# The extracts of the project and, where it lies beside the checkout, the whole month.
_ROOT = Path(__file__).parents[2]
MONTH = _ROOT.parent / "shared" / "data" / "anonymous-bank-1999-01.tsv.gz"
EXTRACTS = sorted((_ROOT / "data").glob("*.tsv*"))

COLUMNS = (
    "vru+line",
    "call_id",
    "customer_id",
    "priority",
    "type",
    "date",
    "vru_entry",
    "vru_exit",
    "vru_time",
    "q_start",
    "q_exit",
    "q_time",
    "outcome",
    "ser_start",
    "ser_exit",
    "ser_time",
    "server",
)

Row = dict[str, str]


def clock(seconds: int) -> str:
    """``h:mm:ss`` of an instant, which past midnight starts again at 0:00:00."""
    minutes, second = divmod(seconds % 86_400, 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"


def at(text: str) -> int:
    """Seconds since midnight of ``h:mm:ss``."""
    hour, minute, second = map(int, text.split(":"))
    return hour * 3600 + minute * 60 + second


def call(
    *,
    exit_at: str = "10:00:00",
    ivr: int = 10,
    wait: int = 0,
    talk: int = 0,
    outcome: str = "AGENT",
    server: str = "ANAT",
    queue: str = "PS",
    date: str = "990105",
    line: str = "AA0101",
    **overrides: str,
) -> Row:
    """One row: left the IVR at ``exit_at`` after ``ivr`` s, waited ``wait`` s, was served for ``talk`` s."""
    left = at(exit_at)
    answered = left + wait
    row = {
        "vru+line": line,
        "customer_id": "0",
        "priority": "0",
        "type": queue,
        "date": date,
        "vru_entry": clock(left - ivr),
        "vru_exit": exit_at,
        "vru_time": str(ivr),
        "q_start": exit_at if wait else "0:00:00",
        "q_exit": clock(answered) if wait else "0:00:00",
        "q_time": str(wait),
        "outcome": outcome,
        "ser_start": clock(answered) if talk else "0:00:00",
        "ser_exit": clock(answered + talk) if talk else "0:00:00",
        "ser_time": str(talk),
        "server": server,
    }
    return {**row, **overrides}


def write_trace(path: Path, rows: Sequence[Row]) -> Path:
    """Write the rows as the recording is: tabs, CRLF, one header line; compressed if named ``.gz``."""
    lines = ["\t".join(COLUMNS)]
    lines += ["\t".join({"call_id": str(n), **row}[name] for name in COLUMNS) for n, row in enumerate(rows)]
    data = ("\r\n".join(lines) + "\r\n").encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path
