"""What every benchmark gives back, and how it is shown: rounds, median, spread, ratio to a peer, goal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from rich.table import Table


@dataclass(frozen=True)
class Goal:
    """A bound that a figure should keep.

    Attributes:
        limit: the bound, in the figure's unit or as a ratio.
        of: ``ratio`` to the peer or the figure's own ``value``; both are judged by their median over the rounds;
            ``worst`` judges the worst round's value.
        kind: whether the bound is the least or the most allowed.
    """

    limit: float
    of: Literal["ratio", "value", "worst"]
    kind: Literal["at least", "at most"]

    def holds(self, judged: float) -> bool:
        return judged >= self.limit if self.kind == "at least" else judged <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.kind == "at least" else "≤"
        return f"{sign} {_short(self.limit)}" + (" x" if self.of == "ratio" else "")


@dataclass(frozen=True)
class Figure:
    """One quantity, measured once a round, beside what the peer reached in the same round.

    Attributes:
        name: what is measured.
        unit: its unit.
        rounds: one value a round.
        better: whether more or less is good; a ratio above 1 always means better than the peer.
        peer: who it is compared with.
        peer_rounds: the peer's values, in the same order.
    """

    name: str
    unit: str
    rounds: Sequence[float]
    better: Literal["more", "less"] = "less"
    peer: str = ""
    peer_rounds: Sequence[float] = ()
    goal: Goal | None = None

    @property
    def ratios(self) -> list[float]:
        """How many times better than the peer, round by round; none if a value is 0."""
        if not self.peer_rounds or 0 in (*self.rounds, *self.peer_rounds):
            return []
        pairs = zip(self.rounds, self.peer_rounds, strict=True)
        return [own / other if self.better == "more" else other / own for own, other in pairs]

    @property
    def ratio(self) -> float | None:
        """Median of the rounds' ratios: a disturbance that hits both sides of a round cancels out."""
        return median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met, None without one."""
        if self.goal is None:
            return None
        if self.goal.of == "worst":
            return self.rounds_met == len(self.rounds)
        judged = self.ratios if self.goal.of == "ratio" else self.rounds
        return bool(judged) and self.goal.holds(median(judged))

    @property
    def rounds_met(self) -> int:
        """How many rounds meet the goal by themselves: a median hides a bad round."""
        if self.goal is None:
            return 0
        return sum(map(self.goal.holds, self.ratios if self.goal.of == "ratio" else self.rounds))

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "rounds": list(self.rounds),
            "median": median(self.rounds),
            "min": min(self.rounds),
            "max": max(self.rounds),
            "peer": self.peer or None,
            "peer_rounds": list(self.peer_rounds),
            "ratios": self.ratios,
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "met": self.met,
            "rounds_met": self.rounds_met if self.goal else None,
        }


def as_table(results: dict[str, list[Figure]]) -> Table:
    """All figures, grouped by benchmark."""
    table = Table(show_lines=False, pad_edge=False)
    for name in ("benchmark", "figure", "unit"):
        table.add_column(name, overflow="fold")
    for name in ("rounds", "median", "min - max", "peer's median", "ratio", "goal"):
        table.add_column(name, justify="right")
    table.add_column("")
    for benchmark, figures in results.items():
        table.add_section()
        for figure in figures:
            met = {None: "", True: "[green]met", False: "[bold red]missed"}[figure.met]
            if figure.met is not None:
                met += f"[/] {figure.rounds_met}/{len(figure.rounds)}"
            table.add_row(
                benchmark,
                figure.name,
                figure.unit,
                " ".join(_short(value) for value in figure.rounds),
                f"[bold]{_short(median(figure.rounds))}[/]",
                f"{_short(min(figure.rounds))} - {_short(max(figure.rounds))}",
                f"{_short(median(figure.peer_rounds))} ({figure.peer})" if figure.peer_rounds else "",
                f"{figure.ratio:.2f} x" if figure.ratio is not None else "",
                str(figure.goal or ""),
                met,
            )
    return table


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not pass (nearest rank).

    Args:
        ordered: values in ascending order, at least one.
        share: 0 < share ≤ 1.
    """
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]


def _short(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}"
