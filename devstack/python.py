"""The environment of the stack's Python children."""

from __future__ import annotations

import os
from collections.abc import Mapping

from devstack.artifacts import cache_dir
from devstack.guard import STACK_ID_VARIABLE

_PREFIX = "CCAAS_"
_KEPT = frozenset({"CCAAS_CACHE_DIR", "CCAAS_MAVEN_URL", STACK_ID_VARIABLE})
_LOOPBACK = ("127.0.0.1", "localhost")


def python_environment() -> dict[str, str]:
    """The owner's environment without the platform's settings, and with loopback exempt from proxies.

    A setting of the owner's (``CCAAS_…``, also ``CCAAS_CONFIG``) would win over the file that a child is given, so a
    child gets only those that its caller adds.

    If the owner forbids byte code beside the sources, byte code is kept in the cache folder: without it every flow run
    compiles Prefect anew (measured: server start 6.5 s instead of 3.9 s, import 1.7 s instead of 1.1 s).
    """
    environment = {name: text for name, text in os.environ.items() if not name.startswith(_PREFIX) or name in _KEPT}
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):
        environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_dir() / "bytecode"))
    return environment | loopback_unproxied(environment)


def loopback_unproxied(environment: Mapping[str, str]) -> dict[str, str]:
    """``NO_PROXY`` and ``no_proxy`` of an environment, with loopback added: HTTP clients read one or the other."""
    named = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    hosts = [host.strip() for host in named.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in _LOOPBACK if host not in hosts]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))
