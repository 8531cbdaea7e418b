"""The interval tables that a trace must become, computed with pandas straight from the raw file.

This is the yardstick for the warehouse, so it shares no code with the platform: it knows the file's columns,
the meaning of a row (design, section 8) and the definition of a cell (section 6), and nothing of events.

Agent time is interval arithmetic. With S = union of the dates' spans (first assignment to last end) and
I = union of the calls, I lies within S, so in every cell interacting = I, idle = S - I and off queue = the
cell without S. Before 00:00 of the agent's first date nothing is known, but no cell with activity lies there.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pandas as pd

MEDIA_TYPE = "VOICE"
NO_SERVER = "NO_SERVER"
TENANTS = {"AA01": ("genesys", "bank-north"), "AA02": ("cxone", "bank-south")}
OUTCOMES = frozenset({"AGENT", "HANG", "PHANTOM"})

QUEUE_KEYS = ["vendor", "tenant_id", "queue_id", "media_type", "interval_start"]
QUEUE_SUMS = [
    "offered",
    "answered",
    "abandoned",
    "flowed_out",
    "answered_in_threshold",
    "wait_answered_ms",
    "wait_abandoned_ms",
    "handled",
    "talk_ms",
    "hold_ms",
    "acw_ms",
]
QUEUE_COLUMNS = [*QUEUE_KEYS, "interval_minutes", *QUEUE_SUMS]

AGENT_KEYS = ["vendor", "tenant_id", "agent_id", "interval_start"]
AGENT_SUMS = ["interacting_ms", "communicating_ms", "idle_ms", "not_responding_ms", "off_queue_ms", "handled"]
AGENT_COLUMNS = [*AGENT_KEYS, "interval_minutes", *AGENT_SUMS]

_TRACE_COLUMNS = [
    "vru+line",
    "call_id",
    "type",
    "date",
    "vru_entry",
    "vru_exit",
    "vru_time",
    "q_start",
    "q_time",
    "outcome",
    "ser_time",
    "server",
]
_DAY = pd.Timedelta(days=1)
_DAY_S = 86_400
_AGENT = ["vendor", "tenant_id", "agent_id"]


def expected_tables(
    path: str | Path,
    *,
    date_shift_days: int = 0,
    interval_minutes: int = 15,
    service_level_seconds: int = 20,
    first_dates: int | None = None,
    until: datetime | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute ``queue_intervals`` and ``agent_intervals`` of a trace.

    Args:
        path: tab-separated trace with a header line, plain or gzip-compressed (told by its first bytes).
        date_shift_days: whole days by which every date is moved.
        interval_minutes: 15, 30 or 60.
        service_level_seconds: an answer after at most this wait is within the threshold.
        first_dates: take only the calls of this many earliest dates of the file; all if None.
        until: end (exclusive, timezone-aware) of the window, to which every agent's last status runs.
            Default: the first midnight after the last date and after the last occurrence.

    Returns:
        Two frames with exactly the columns of ``QUEUE_COLUMNS`` and ``AGENT_COLUMNS``, one row a cell, sorted
        by key; ``interval_start`` is in UTC, counts and milliseconds are int64.

    Raises:
        ValueError: the file lacks a column, holds a call twice or an IVR, outcome, clock or number that
            cannot be read, or an argument is out of range.
    """
    if interval_minutes not in {15, 30, 60}:
        msg = f"interval_minutes is {interval_minutes}: choose 15, 30 or 60"
        raise ValueError(msg)
    interval = pd.Timedelta(minutes=interval_minutes)
    rows = _read(Path(path), date_shift_days, first_dates)
    calls = _calls(rows)
    end = _window_end(rows, calls, until)
    queues = _queue_intervals(calls, interval, service_level_seconds * 1000)
    agents = _agent_intervals(calls, interval, end)
    return (
        _finish(queues, QUEUE_KEYS, QUEUE_COLUMNS, interval_minutes),
        _finish(agents, AGENT_KEYS, AGENT_COLUMNS, interval_minutes),
    )


def _read(path: Path, date_shift_days: int, first_dates: int | None) -> pd.DataFrame:
    """The rows asked for: dates as moved midnights, clocks and durations as whole seconds."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    rows = pd.read_csv(path, sep="\t", dtype="object", keep_default_na=False, compression="gzip" if zipped else None)
    missing = [column for column in _TRACE_COLUMNS if column not in rows.columns]
    if missing:
        msg = f"{path} lacks the columns {', '.join(missing)}: give a trace in the format of the data README"
        raise ValueError(msg)
    again = rows.duplicated(["vru+line", "date", "call_id"])
    _refuse(path, rows["call_id"], ~again, "unique within its vru+line and date")
    _refuse(path, rows["vru+line"], rows["vru+line"].str[:4].isin(TENANTS), "AA01.. or AA02..")
    _refuse(path, rows["outcome"], rows["outcome"].isin(OUTCOMES), "AGENT, HANG or PHANTOM")
    for column in ("vru_entry", "vru_exit", "q_start"):
        _refuse(path, rows[column], rows[column].str.fullmatch(r"\d{1,2}:[0-5]\d:[0-5]\d"), "h:mm:ss")
        rows[column] = _seconds(pd.to_timedelta(rows[column]))
    for column, pattern in (("vru_time", r"-?\d+"), ("q_time", r"\d+"), ("ser_time", r"\d+")):
        _refuse(path, rows[column], rows[column].str.fullmatch(pattern), "whole seconds")
        rows[column] = rows[column].astype("int64")
    midnight = pd.to_datetime(rows["date"], format="%y%m%d", utc=True).astype("datetime64[ns, UTC]")
    rows["midnight"] = midnight + pd.Timedelta(days=date_shift_days)
    if first_dates is None:
        return rows
    if first_dates < 1:
        msg = f"first_dates is {first_dates}: it counts dates, give 1 or more"
        raise ValueError(msg)
    return rows[rows["midnight"].isin(rows["midnight"].drop_duplicates().nsmallest(first_dates))]


def _refuse(path: Path, values: pd.Series[str], good: pd.Series[bool], wanted: str) -> None:
    """Raise ValueError for the first value that is not good."""
    if not good.all():
        row = int((~good).to_numpy().argmax())
        msg = f"{path}, line {row + 2}: {values.name} is {values.iloc[row]!r}, not {wanted}"
        raise ValueError(msg)


def _seconds(durations: pd.Series[pd.Timedelta]) -> pd.Series[int]:
    return durations.astype("timedelta64[s]").astype("int64")


def _calls(rows: pd.DataFrame) -> pd.DataFrame:
    """One line a call (phantoms are none): the instants of what happened, NaT where it did not happen."""
    rows = rows[rows["outcome"] != "PHANTOM"]
    # A negative vru_time is a fault of the recording: such a call began at vru_exit, on the day of its date.
    wraps = (rows["vru_exit"] < rows["vru_entry"]) & (rows["vru_time"] >= 0)
    vru_exit = rows["vru_exit"] + wraps.astype("int64") * _DAY_S
    wraps_again = rows["q_start"] < rows["vru_exit"]
    q_start = rows["q_start"] + (wraps.astype("int64") + wraps_again.astype("int64")) * _DAY_S
    agent = rows["outcome"] == "AGENT"
    waited = rows["q_time"] > 0
    queued = q_start.where(waited, vru_exit)
    left_queue = queued + rows["q_time"]
    finished = left_queue + rows["ser_time"]

    def instant(clock: pd.Series[int]) -> pd.Series[pd.Timestamp]:
        return rows["midnight"] + pd.to_timedelta(clock, unit="s")

    identity = rows["vru+line"].str[:4].map(TENANTS)
    return pd.DataFrame(
        {
            "vendor": identity.str[0],
            "tenant_id": identity.str[1],
            "queue_id": rows["type"],
            "agent_id": rows["server"],
            "media_type": MEDIA_TYPE,
            "midnight": rows["midnight"],
            "queued": instant(queued).where(agent | waited),
            "answered": instant(left_queue).where(agent),
            "abandoned": instant(left_queue).where(waited & ~agent),
            "handled": instant(finished).where(agent),
            "ended": instant(finished.where(agent, left_queue)),
            "wait_ms": rows["q_time"] * 1000,
            "talk_ms": rows["ser_time"] * 1000,
        }
    )


def _ms(durations: pd.Series[pd.Timedelta]) -> pd.Series[int]:
    return durations.astype("timedelta64[ms]").astype("int64")


def _window_end(rows: pd.DataFrame, calls: pd.DataFrame, until: datetime | None) -> pd.Timestamp:
    # An occurrence at 00:00 sharp belongs to the day that begins, hence a full day is added to the floor.
    last: pd.Timestamp = max([rows["midnight"].max(), *calls["ended"]])
    if until is None:
        return last.floor("D") + _DAY
    if until.tzinfo is None:
        msg = f"until is {until} without a time zone: give an aware datetime"
        raise ValueError(msg)
    end = pd.Timestamp(until).tz_convert("UTC")
    if end <= last:
        msg = f"until is {end}, but the trace's last occurrence is at {last}: give a later end"
        raise ValueError(msg)
    return end


def _queue_intervals(calls: pd.DataFrame, interval: pd.Timedelta, threshold_ms: int) -> pd.DataFrame:
    """Each metric counted in the interval in which it completes."""
    within = (calls["wait_ms"] <= threshold_ms).astype("int64")
    one = pd.Series(1, index=calls.index)
    parts = [
        _counted(calls, "queued", interval, {"offered": one}),
        _counted(
            calls,
            "answered",
            interval,
            {"answered": one, "answered_in_threshold": within, "wait_answered_ms": calls["wait_ms"]},
        ),
        _counted(calls, "abandoned", interval, {"abandoned": one, "wait_abandoned_ms": calls["wait_ms"]}),
        _counted(calls, "handled", interval, {"handled": one, "talk_ms": calls["talk_ms"]}),
    ]
    cells = pd.concat(parts, ignore_index=True)
    # The trace has no transfers, holds or wrap-up.
    cells[["flowed_out", "hold_ms", "acw_ms"]] = 0
    return cells.groupby(QUEUE_KEYS, as_index=False)[QUEUE_SUMS].sum()


def _counted(
    calls: pd.DataFrame, instant: str, interval: pd.Timedelta, sums: dict[str, pd.Series[int]]
) -> pd.DataFrame:
    happened = calls[instant].notna()
    cells = calls.loc[happened, ["vendor", "tenant_id", "queue_id", "media_type"]].copy()
    cells["interval_start"] = calls.loc[happened, instant].dt.floor(interval)
    for name, values in sums.items():
        cells[name] = values[happened]
    return cells


def _agent_intervals(calls: pd.DataFrame, interval: pd.Timedelta, end: pd.Timestamp) -> pd.DataFrame:
    taken = calls[calls["handled"].notna() & (calls["agent_id"] != NO_SERVER)]
    legs = taken.rename(columns={"answered": "begin", "handled": "finish"})
    spans = legs.groupby([*_AGENT, "midnight"], as_index=False).agg(begin=("begin", "min"), finish=("finish", "max"))
    handled = legs.assign(interval_start=legs["finish"].dt.floor(interval)).groupby(AGENT_KEYS).size()
    cells = (
        pd.concat(
            {
                "interacting_ms": _time_in_cells(legs, interval),
                "span_ms": _time_in_cells(spans, interval),
                "handled": handled,
            },
            axis=1,
        )
        .fillna(0)
        .astype("int64")
        .rename_axis(AGENT_KEYS)
        .reset_index()
    )
    # No cell with activity begins before the agent's first midnight: a day is a whole number of intervals.
    begin = cells["interval_start"]
    finish = (begin + interval).where(begin + interval <= end, end)
    cells["idle_ms"] = cells["span_ms"] - cells["interacting_ms"]
    cells["off_queue_ms"] = _ms(finish - begin) - cells["span_ms"]
    cells[["communicating_ms", "not_responding_ms"]] = 0
    return cells[(cells["span_ms"] > 0) | (cells["handled"] > 0)]


def _time_in_cells(stretches: pd.DataFrame, interval: pd.Timedelta) -> pd.Series[int]:
    """Milliseconds of each agent's cell within the union of the agent's stretches ``[begin, finish)``."""
    stretches = stretches[stretches["finish"] > stretches["begin"]].sort_values([*_AGENT, "begin"])
    reach = stretches.groupby(_AGENT)["finish"].cummax()
    earlier_reach = reach.groupby([stretches[name] for name in _AGENT]).shift()
    # A stretch opens a group where nothing before it reaches its beginning (NaT before an agent's first).
    group = (~(stretches["begin"] <= earlier_reach)).cumsum().rename("group")
    union = stretches.groupby([*_AGENT, group], as_index=False).agg(begin=("begin", "min"), finish=("finish", "max"))
    union["interval_start"] = [
        list(pd.date_range(begin.floor(interval), finish, freq=interval, inclusive="left"))
        for begin, finish in zip(union["begin"], union["finish"], strict=True)
    ]
    pieces = union.explode("interval_start", ignore_index=True)
    pieces["interval_start"] = pieces["interval_start"].astype("datetime64[ns, UTC]")
    begin = pieces[["begin", "interval_start"]].max(axis=1)
    finish = pieces["finish"].clip(upper=pieces["interval_start"] + interval)
    return pieces.assign(ms=_ms(finish - begin)).groupby(AGENT_KEYS)["ms"].sum()


def _finish(cells: pd.DataFrame, keys: list[str], columns: list[str], interval_minutes: int) -> pd.DataFrame:
    cells = cells.assign(interval_minutes=interval_minutes)
    whole = {name: "int64" for name in columns if name not in keys}
    text = {name: "object" for name in keys if name != "interval_start"}
    return (
        cells[columns]
        .astype({**whole, **text, "interval_start": "datetime64[ns, UTC]"})
        .sort_values(keys, ignore_index=True)
    )
