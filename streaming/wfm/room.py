"""Memory is bounded over all tenants of a member, those with most first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from streaming.wfm.fold import Fold

# Forgets a little more than it has to, so that it does not have to every time.
_SLACK = 20


def make_room(folds: Iterable[Fold], most: int, publish: Callable[[Fold], None]) -> int:
    """Bring the rows of all folds together down to a bound, as far as is right now.

    Ended conversations go first, which figures keep; then of each tenant one interval; only when no interval can go
    any more, what is not over. Each is tried once: what can't be had now may be had at the next sweep.

    Args:
        folds: One of each tenant.
        most: Rows of all together.
        publish: Publishes all changes of a fold: what is forgotten can't be published any more.

    Returns:
        How many rows are left.
    """
    largest_first = sorted(folds, key=lambda fold: fold.rows, reverse=True)
    rows = sum(fold.rows for fold in largest_first)
    if rows <= most:
        return rows
    for fold in largest_first:
        rows -= fold.drop_ended(rows - most + most // _SLACK)
        if rows <= most:
            return rows
    may_forget = [fold for fold in largest_first if fold.can_forget]
    for fold in may_forget:
        publish(fold)
        rows -= fold.forget_interval()
        if rows <= most:
            return rows
    for fold in [] if may_forget else largest_first:
        rows -= fold.drop_open(rows - most)
        if rows <= most:
            return rows
    return rows
