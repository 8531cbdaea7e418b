"""What a lane of the spool may hold: bytes and rows, of each tenant and in all."""

from __future__ import annotations

from typing import NamedTuple

from streaming.errors import ServiceUnavailableError


class SpoolFullError(ServiceUnavailableError):
    """No room: rows or bytes of the tenant, of all, or of the disk. The sender is asked to come again."""


class Bounds(NamedTuple):
    """Of one lane; a row is a webhook request."""

    tenant_rows: int
    tenant_bytes: int
    rows: int
    bytes: int


class Usage:
    """Rows and bytes that came in and left, counted since ever; what is there now is their difference.

    Each number is changed by one thread only: ``taken_*`` by the event loop (from acceptance on, before the commit),
    ``gone_*`` by the spool's writer.
    """

    __slots__ = ("gone_bytes", "gone_rows", "taken_bytes", "taken_rows")

    def __init__(self, taken_rows: int = 0, taken_bytes: int = 0, gone_rows: int = 0, gone_bytes: int = 0) -> None:
        self.taken_rows = taken_rows
        self.taken_bytes = taken_bytes
        self.gone_rows = gone_rows
        self.gone_bytes = gone_bytes

    @property
    def rows(self) -> int:
        """There now."""
        return self.taken_rows - self.gone_rows

    @property
    def bytes(self) -> int:
        """There now."""
        return self.taken_bytes - self.gone_bytes


class Lane:
    """Usage of one lane (ordinary, deferred) against its bounds. One lane's flood takes no room of another's.

    Args:
        name: For messages.
        bounds: Its own.
    """

    def __init__(self, name: str, bounds: Bounds) -> None:
        self._name = name
        self._bounds = bounds
        self._total = Usage()
        self._tenants: dict[str, Usage] = {}

    @property
    def is_full(self) -> bool:
        """Whether there is room for no tenant."""
        return self._total.rows >= self._bounds.rows or self._total.bytes >= self._bounds.bytes

    @property
    def usage(self) -> Usage:
        """Of all tenants together."""
        return self._total

    def load(self, tenant: str, usage: Usage) -> None:
        """Usage of a tenant as the file has it; before anything is taken."""
        self._tenants[tenant] = usage
        self._total.taken_rows += usage.taken_rows
        self._total.taken_bytes += usage.taken_bytes
        self._total.gone_rows += usage.gone_rows
        self._total.gone_bytes += usage.gone_bytes

    def take(self, tenant: str, size: int) -> None:
        """Give room to one request. Hot path: differences written out, no calls.

        Args:
            tenant: Tenant id.
            size: Bytes of its body; of a deferred one also of its signature and of the reason.

        Raises:
            SpoolFullError: there is none.
        """
        usage = self._tenants.get(tenant)
        if usage is None:
            usage = self._tenants[tenant] = Usage()
        total, bounds = self._total, self._bounds
        if (
            usage.taken_rows - usage.gone_rows >= bounds.tenant_rows
            or usage.taken_bytes - usage.gone_bytes + size > bounds.tenant_bytes
        ):
            msg = f"tenant {tenant}: its {self._name} fill {bounds.tenant_bytes} bytes or {bounds.tenant_rows} rows"
            raise SpoolFullError(msg)
        if (
            total.taken_rows - total.gone_rows >= bounds.rows
            or total.taken_bytes - total.gone_bytes + size > bounds.bytes
        ):
            msg = f"the spool's {self._name} fill {bounds.bytes} bytes or {bounds.rows} rows"
            raise SpoolFullError(msg)
        usage.taken_rows += 1
        usage.taken_bytes += size
        total.taken_rows += 1
        total.taken_bytes += size

    def give_back(self, tenant: str, rows: int, size: int) -> None:
        """What was taken could not be stored. In the event loop's thread."""
        for usage in (self._tenants[tenant], self._total):
            usage.taken_rows -= rows
            usage.taken_bytes -= size

    def left(self, tenant: str, rows: int, size: int) -> None:
        """How much of a tenant's has left since ever. In the writer's thread."""
        usage, total = self._tenants.get(tenant), self._total
        if usage is not None:
            total.gone_rows += rows - usage.gone_rows
            total.gone_bytes += size - usage.gone_bytes
            usage.gone_rows, usage.gone_bytes = rows, size
