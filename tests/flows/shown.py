"""What a flow's run would show on the server, kept instead."""

from __future__ import annotations

from typing import Any


class Shown:
    """What a run would show on the server."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.markdown = ""
        self.events: list[dict[str, Any]] = []

    def table(self, key: str, rows: list[dict[str, Any]]) -> None:
        self.tables[key] = rows

    def text(self, markdown: str, **_: object) -> None:
        self.markdown = markdown

    def event(self, **event: Any) -> None:
        self.events.append(event)
