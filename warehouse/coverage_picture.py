"""Coverage as a picture: a row a dataset, a square a day."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from warehouse.coverage import DATASETS, DAY, Span, State
from warehouse.pictures import INK, MUTED, day_number, png_of, span_text, time_axis
from warehouse.windows import Window

_COLOURS = {State.LOADED: "#1f5f8b", State.PARTLY: "#e0a458", State.FAILED: "#c8553d", State.MISSING: "#e7ebef"}
_MOST_DAYS = 1_000
"""More would be squares of less than a pixel: the latest are shown."""

_WIDTH_IN, _ROW_IN, _HEAD_IN, _FOOT_IN = 11.0, 0.34, 1.3, 0.45
_LEFT, _RIGHT = 0.155, 0.895
_GAP_UP_TO = timedelta(days=120)


def coverage_png(spans: Sequence[Span], window: Window) -> bytes:
    """Draw what :func:`warehouse.coverage.coverage` gave of a window; 1430 pixels wide."""
    # Matplotlib takes a second to import, and few runs draw.
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = Window(max(window.start, window.end - _MOST_DAYS * DAY), window.end)
    datasets = [dataset for dataset in DATASETS if any(span.dataset == dataset for span in spans)]
    height = _HEAD_IN + _ROW_IN * len(datasets) + _FOOT_IN
    figure = Figure(figsize=(_WIDTH_IN, height), dpi=130, facecolor="white")
    figure.text(0.012, 1 - 0.38 / height, "What is loaded, by day", size=14, color=INK, weight="bold")
    figure.text(0.012, 1 - 0.66 / height, f"{span_text(shown)}, days in UTC", size=10, color=MUTED)
    _legend(figure, 1 - 0.98 / height, [span.state for span in spans if span.window.end > shown.start])
    bottom = _FOOT_IN / height
    axes = figure.add_axes((_LEFT, bottom, _RIGHT - _LEFT, 1 - bottom - _HEAD_IN / height))
    gap = 0.06 if shown.end - shown.start <= _GAP_UP_TO else 0.0
    for row, dataset in enumerate(datasets):
        own = [span for span in spans if span.dataset == dataset and span.window.end > shown.start]
        for span in own:
            width = (span.window.end - span.window.start) / DAY
            left = day_number(span.window.start) + gap / 2
            axes.barh(row, width - gap, left=left, height=0.76, color=_COLOURS[span.state], linewidth=0, align="center")
        count = sum(span.state is State.LOADED for span in own)
        text = f"{count} of {len(own)} days"
        axes.text(1.012, row, text, transform=axes.get_yaxis_transform(), va="center", color=MUTED, size=9)
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    axes.set_yticks(range(len(datasets)), [dataset.replace("_", " ") for dataset in datasets])
    axes.tick_params(colors=MUTED, length=0, labelsize=9.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    time_axis(axes, shown.start, shown.end)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("left")  # a day begins where its name does
    return png_of(figure)


def _legend(figure: Any, height: float, states: Sequence[State]) -> None:
    place = 0.012
    for state, colour in _COLOURS.items():
        figure.text(place, height, "■", color=colour, size=12, va="center")
        text = f"{state} {states.count(state):,}"
        figure.text(place + 0.018, height, text, color=MUTED, size=9.5, va="center")
        place += 0.035 + 0.0085 * len(text)
