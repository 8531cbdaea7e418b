"""What a vendor's package gives so that its dead letters can be replayed: ``REPLAY``, called with a tenant."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from schemas.canonical import CanonicalEvent
from streaming.deadletter import Described
from streaming.errors import BadEventError
from streaming.settings import Tenant

Json = Any
Normalised = tuple[list[CanonicalEvent], BadEventError | None]
"""The events of what is good, and what is wrong with the first that is not."""


class VendorReplay(NamedTuple):
    """How one tenant's dead letters are normalised again, on the path that made them.

    Attributes:
        normalise: Of a dead letter's parsed value, mended by fix-ups. It may raise BadEventError: nothing can be used.
        asks_again: Stages whose values are no messages; the flow that wrote them asks the vendor again by itself.
    """

    normalise: Callable[[Described, Json], Normalised]
    asks_again: frozenset[str] = frozenset()


def vendor_replay(tenant: Tenant) -> VendorReplay:
    """The hook of a tenant's vendor.

    Raises:
        ConfigurationError: the tenant's connection section is wrong.
    """
    package = importlib.import_module(f"streaming.vendors.{tenant.vendor}")
    return cast("VendorReplay", package.REPLAY(tenant))
