"""The environment of the stack's Python children."""

from __future__ import annotations

import os

from devstack.artifacts import cache_dir


def python_environment() -> dict[str, str]:
    """The owner's environment; if it forbids byte code beside the sources, byte code is kept in the cache folder.

    Without byte code every flow run compiles Prefect anew (measured: server start 6.5 s instead of 3.9 s, import 1.7 s
    instead of 1.1 s).
    """
    environment = dict(os.environ)
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_dir() / "bytecode"))
    return environment
