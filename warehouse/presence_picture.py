"""Presence of metadata fields by day, as a picture for whoever decides on their promotion."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from schemas.evolution import Evidence, Proposal, Verdict
from warehouse.pictures import INK, MUTED, png_of

_MOST = 40
_FULL, _BELOW, _NONE = "#1f5f8b", "#e0a458", "#f3f5f7"
_MARKS = {Verdict.PROMOTE: "promote", Verdict.WAIT: "wait", Verdict.REFUSED: "refused", Verdict.PROMOTED: "promoted"}
_ROW_IN, _HEAD_IN, _WIDTH_IN = 0.27, 1.35, 11.0


def presence_png(proposal: Proposal) -> bytes:
    """A row a field, candidates first, a square a day of the window; at most 40 fields.

    A square is dark where the field is on as many events as the threshold asks, amber where on fewer, and empty on days
    on which its event type did not occur.
    """
    # Matplotlib takes a second to import, and few runs draw.
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = proposal.evidence[:_MOST]
    height = _HEAD_IN + _ROW_IN * max(len(shown), 1) + 0.35
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=130, facecolor="white")
    left, right, bottom = 0.3, 0.87, 0.42 / height
    axes = figure.add_axes((left, bottom, right - left, 1 - bottom - _HEAD_IN / height))
    count = sum(item.verdict is Verdict.PROMOTE for item in proposal.evidence)
    title = f"{count or 'No'} metadata field{'' if count <= 1 else 's'} to be promoted as of {proposal.as_of:%d %b %Y}"
    figure.text(0.012, 1 - 0.38 / height, title, size=14, color=INK, weight="bold")
    days, share = proposal.thresholds.window_days, proposal.thresholds.min_presence
    more = f", {_MOST} of {len(proposal.evidence)} fields shown" if len(proposal.evidence) > _MOST else ""
    text = f"Share of events with the field on each of the last {days} days; {share:.0%} are needed{more}"
    figure.text(0.012, 1 - 0.66 / height, text, size=10, color=MUTED)
    _legend(figure, 1 - 0.95 / height, share)
    axes.tick_params(colors=MUTED, length=0, labelsize=9)
    if shown:
        _rows(axes, shown, proposal)
    else:
        axes.text(0.5, 0.5, "no field came near", transform=axes.transAxes, ha="center", color=MUTED, size=13)
        axes.set_yticks([])
        axes.set_xticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    return png_of(figure)


def _rows(axes: Any, shown: tuple[Evidence, ...], proposal: Proposal) -> None:
    width = proposal.thresholds.window_days
    begin = proposal.as_of - timedelta(days=width)
    for row, item in enumerate(shown):
        for number in range(width):
            colour, alpha = _colour(item.presence.get(begin + timedelta(days=number)), proposal.thresholds.min_presence)
            axes.barh(row, 0.86, left=number + 0.07, height=0.74, color=colour, alpha=alpha, linewidth=0)
        kind = item.type or "varies"
        told = f"{_MARKS[item.verdict]} · {kind}"
        axes.text(1.015, row, told, transform=axes.get_yaxis_transform(), va="center", color=_ink(item), size=9)
    axes.set_xlim(0, width)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), [_short(item.key) for item in shown])
    for label, item in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color(_ink(item))
    step = max(1, width // 6)
    ticks = range(0, width, step)
    axes.set_xticks([tick + 0.5 for tick in ticks], [f"{begin + timedelta(days=tick):%d %b}" for tick in ticks])


def _colour(share: float | None, needed: float) -> tuple[str, float]:
    if share is None:
        return _NONE, 1.0
    if share >= needed:
        return _FULL, 1.0
    return (_BELOW, 0.25 + 0.75 * share) if share else (_BELOW, 0.18)


def _ink(item: Evidence) -> str:
    return INK if item.verdict is Verdict.PROMOTE else MUTED


def _short(key: str, most: int = 40) -> str:
    return key if len(key) <= most else f"{key[: most // 2 - 1]}…{key[-most // 2 :]}"


def _legend(figure: Any, height: float, share: float) -> None:
    place = 0.012
    for colour, text, width in (
        (_FULL, f"≥ {share:.0%}", 0.075),
        (_BELOW, "fewer, palest: none", 0.145),
        (_NONE, "type did not occur", 0),
    ):
        figure.text(place, height, "■", color=colour, size=11, va="center")
        figure.text(place + 0.016, height, text, color=MUTED, size=9, va="center")
        place += width + 0.016
