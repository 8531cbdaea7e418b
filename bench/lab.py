"""Where the benchmarks run: one local stack and the platform's real services, in a temporary folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from rich.console import Console

from devstack.child import ChildProcess, http_probe
from devstack.stack import LocalStack

_BIN = Path(sys.executable).parent
_START_SECONDS = 60.0


class Lab:
    """Starts the stack when a benchmark first asks for it, ends all when left.

    Args:
        folder: for the data of everything; on a disk.
        console: for progress.
    """

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder = folder
        self.console = console
        self._exit = ExitStack()
        self._stack: LocalStack | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def stack(self) -> LocalStack:
        """Kafka and registry, started at the first use."""
        if self._stack is None:
            self._stack = self._exit.enter_context(LocalStack(self.folder / "stack", console=self.console))
        return self._stack

    def configure(self, name: str, toml: str) -> Path:
        """A settings file with a data folder of its own; Kafka and registry come by environment."""
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "ccaas.toml"
        config.write_text(f'data_dir = "{folder}"\n{toml}', encoding="utf-8")
        return config

    @contextmanager
    def service(self, name: str, config: Path, port: int) -> Iterator[ChildProcess]:
        """``ccaas run NAME`` until the block ends; entered once it is alive."""
        environment = {"CCAAS_CONFIG": str(config)}
        command: list[str | Path] = [_BIN / "ccaas", "run", name]
        with self.process(f"{config.parent.name}-{name}", command, environment, port, "/healthz") as child:
            yield child

    @contextmanager
    def module(
        self, name: str, arguments: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> Iterator[ChildProcess]:
        """``python -m …`` until the block ends; entered once it serves ``/``."""
        command: list[str | Path] = [sys.executable, "-m", *arguments]
        with self.process(name, command, environment or {}, port, "/") as child:
            yield child

    @contextmanager
    def process(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], port: int, path: str
    ) -> Iterator[ChildProcess]:
        """A child of the stack that serves HTTP on loopback."""
        child = self.stack.processes.start(
            name,
            command,
            environment={**os.environ, **self.stack.environment(), **environment},
            probe=http_probe(f"http://127.0.0.1:{port}{path}"),
            deadline_s=_START_SECONDS,
        )
        try:
            yield child
        finally:
            child.stop()
