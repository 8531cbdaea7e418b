"""Log lines that a stranger's flood may cause: a few stand for many."""

from __future__ import annotations

import time

_PAUSE_S = 1.0


class Hush:
    """At most one line a second, tenant and kind.

    Both must come from a small set: what was said is kept for each.
    """

    def __init__(self) -> None:
        # When a line may be said again, and how many were not since the last.
        self._kinds: dict[tuple[str, str], tuple[float, int]] = {}

    def take(self, tenant_id: str, kind: str) -> int | None:
        """Ask to say a line.

        Returns:
            How many like it were suppressed before; None if this one is to be too.
        """
        now = time.monotonic()
        due, suppressed = self._kinds.get((tenant_id, kind), (now, 0))
        if now < due:
            self._kinds[tenant_id, kind] = due, suppressed + 1
            return None
        self._kinds[tenant_id, kind] = now + _PAUSE_S, 0
        return suppressed
