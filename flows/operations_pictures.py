"""Deployment operations-pictures. When contacts come, and how late events arrive."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from prefect import flow
from pydantic import Field

from flows._load import retry_while_down, scheduled_time, show_picture
from flows._tenants import chosen_tenants
from streaming.settings import load_settings
from warehouse.engine import Warehouse, publish_read_copy, reader
from warehouse.heat_map import heat_map_png, last_weeks
from warehouse.late_arrivals import late_arrivals_png
from warehouse.windows import Window

_LOADED = timedelta(days=1)


@flow(name="operations-pictures")
def operations_pictures(tenant: str | None = None, weeks: Annotated[int, Field(ge=1, le=52)] = 4) -> None:
    """Show contacts by weekday and hour over the last weeks, and the delays of the events loaded within a day.

    Args:
        tenant: Contacts of this tenant only. Empty: all together.
        weeks: Weeks before the scheduled day, 1 to 52.

    Raises:
        ConfigurationError: there is no such tenant.
    """
    due = scheduled_time()
    heat, late = _draw(last_weeks(due, weeks), Window(due - _LOADED, due), tenant)
    show_picture("contacts-by-weekday-and-hour", heat, f"Mean contacts offered per hour, UTC, last {weeks} weeks")
    show_picture(
        "late-arrivals", late, "Arrival on Kafka less the vendor's own time, of the events loaded within a day"
    )


@retry_while_down
def _draw(weeks: Window, loaded: Window, tenant: str | None) -> tuple[bytes, bytes]:
    settings = load_settings()
    chosen_tenants(settings, tenant)
    warehouse = Warehouse.from_settings(settings)
    publish_read_copy(warehouse)
    with reader(warehouse) as connection:
        return heat_map_png(connection, weeks, tenant_id=tenant), late_arrivals_png(connection, loaded)
