"""A month of events with two further fields, stable enough to be promoted; and schemas that stand against it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

from schemas.canonical import EventType, latest_schema
from schemas.promoted import PromotedField
from schemas.registry import Registry
from tests.warehouse.events import Event, at, land

SCORE = PromotedField("genesys_score", "genesys.score", "long")
MOOD = PromotedField("genesys_mood", "genesys.mood", "string")
AS_OF = date(1999, 1, 31)


def land_month(landing_dir: Path) -> None:
    """30 events with both fields, one a day, the last on the eve of AS_OF."""
    items = [
        Event(
            EventType.STARTED,
            at("09:00:00", day=1) + timedelta(days=number),
            {"conversation_id": f"c{number}"},
            metadata={"ccaas.native_type": "t", SCORE.key: "7", MOOD.key: "fine"},
        )
        for number in range(30)
    ]
    land(landing_dir, *[replace(item, offset=number) for number, item in enumerate(items)])


def with_field(schema: str, name: str, type_: str) -> str:
    """A schema with an optional field that mirrors no metadata: somebody else's."""
    document = json.loads(schema)
    document["fields"].append({"name": name, "type": ["null", type_], "default": None})
    return json.dumps(document)


def register_and_drop_score(registry: Registry) -> None:
    """Somebody had the field as a string and dropped it: FULL, against the newest alone, takes it as a long."""
    registry.current()
    registry.register(with_field(latest_schema(), SCORE.name, "string"))
    registry.register(latest_schema().replace("One vendor-neutral", "A vendor-neutral"))
