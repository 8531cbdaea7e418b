"""A simulated CRM as a process, whose log of effects is read from its file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

from devstack.python import python_environment
from tests.processes import HTTP, until

_START_SECONDS = 120.0

States = dict[tuple[str, str, str, str], dict[str, str]]
"""By vendor, tenant, kind and id: fields."""


class Crm:
    """A simulated CRM with its log of effects, as a process."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "crm.effects"
        port_file = folder / "crm.port"
        self._output = (folder / "crm.log").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "devstack.simulators.crm", "--log", self._log, "--port-file", port_file],
            env=python_environment(),
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        until(port_file.exists, _START_SECONDS, "the CRM simulator serves")
        self.url = f"http://127.0.0.1:{port_file.read_text().strip()}"

    def misbehave(self, **orders: object) -> None:
        HTTP.post(f"{self.url}/control/misbehave", json=orders).raise_for_status()

    def answers(self) -> dict[str, int]:
        """How many calls were answered how."""
        found: dict[str, int] = HTTP.get(f"{self.url}/control/status").json()["answers"]
        return found

    def effects(self) -> Counter[str]:
        """Events that had an effect, by key: read from the log's file, not told by the simulator."""
        with closing(sqlite3.connect(f"file:{self._log}?mode=ro", uri=True)) as database:
            return Counter(key for (key,) in database.execute("SELECT key FROM effect"))

    def states(self) -> States:
        """What conversations and agents look like."""
        found: States = {}
        with closing(sqlite3.connect(f"file:{self._log}?mode=ro", uri=True)) as database:
            for *entity, name, value in database.execute("SELECT vendor, tenant_id, kind, id, field, value FROM state"):
                found.setdefault((entity[0], entity[1], entity[2], entity[3]), {})[name] = value
        return found

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._output.close()
