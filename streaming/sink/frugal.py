"""Keeps the sink's process small."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import pyarrow as pa


class _NoPandas(MetaPathFinder):
    def find_spec(
        self, fullname: str, _path: Sequence[str] | None, _target: ModuleType | None = None, /
    ) -> ModuleSpec | None:
        """Nothing by that name; whatever else, the next finder knows."""
        if fullname == "pandas":
            raise ModuleNotFoundError(fullname, name=fullname)
        return None


def keep_out_pandas() -> None:
    """From now on this process does without pandas.

    pyarrow imports it, if it is installed, as soon as it makes an array of a list: 50 MB that a sink has no use for.
    """
    if not any(isinstance(finder, _NoPandas) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoPandas())


def give_back_memory() -> None:
    """Return to the system what Arrow's pool, and the C library's for the Avro decoder, keep for later."""
    pa.default_memory_pool().release_unused()
    pa.system_memory_pool().release_unused()
