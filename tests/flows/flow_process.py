"""Runs of a flow as processes of their own, forked from one that has imported it: importing takes 3 s of CPU a run.

They are killed and waited for like any process.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_forking = multiprocessing.get_context("forkserver")
# The flow, and what it imports when it needs it.
_forking.set_forkserver_preload(["flows.promote_metadata_fields", "matplotlib.figure", "alembic.command"])


def start_flow(
    entrypoint: str, name: str, parameters: dict[str, Any], *, environment: Mapping[str, str], log: Path, result: Path
) -> BaseProcess:
    """Start a run.

    Args:
        entrypoint: ``module.function`` of the flow.
        name: Name of the run on the server.
        parameters: Of the flow, as a JSON document would have them.
        environment: All variables of the process.
        log: File of its output.
        result: File to which it writes as JSON what the flow returns.
    """
    process = _forking.Process(target=_run, args=(entrypoint, name, parameters, dict(environment), log, result))
    process.start()
    return process


def _run(
    entrypoint: str, name: str, parameters: dict[str, Any], environment: dict[str, str], log: Path, result: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with log.open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415 (the tests' own process has it not yet)

    refresh_global_settings_context()
    module, _, function = entrypoint.rpartition(".")
    flow = getattr(importlib.import_module(module), function)
    result.write_text(json.dumps(flow.with_options(flow_run_name=name)(**parameters)))
