"""``ccaas schema check``: a schema against every version that is in use or was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from schemas.canonical import schema_versions
from schemas.compatibility import core_problems, full_problems
from schemas.registry import Registry
from streaming.errors import ConfigurationError
from streaming.settings import RegistrySettings


class Verdict(NamedTuple):
    """One comparison; without problems it is compatible."""

    schema: str
    against: str
    problems: tuple[str, ...]


def check_file(file: Path, settings: RegistrySettings, *, offline: bool) -> list[Verdict]:
    """A file against the core, every version of the project, and every registered one.

    Raises:
        ConfigurationError: the file can't be read or is no Avro schema.
        ServiceUnavailableError: the registry can't be reached.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        msg = f"{file} can't be read: {error}"
        raise ConfigurationError(msg) from None
    try:
        core = tuple(core_problems(text))
    except ConfigurationError as error:
        msg = f"{file}: {error}"
        raise ConfigurationError(msg) from None
    own, registered = _versions(settings, offline=offline)
    return [
        Verdict(file.name, "the canonical event", core),
        *_against(file.name, text, "project", own),
        *_against(file.name, text, "registry", registered),
    ]


def check_project(settings: RegistrySettings, *, offline: bool) -> list[Verdict]:
    """Every version of the project against the older ones, and against every registered one.

    Raises:
        ConfigurationError: a version is no Avro schema, or there is none.
        ServiceUnavailableError: the registry can't be reached.
    """
    own, registered = _versions(settings, offline=offline)
    found = []
    for number, text in own.items():
        name = f"v{number}"
        found.append(Verdict(name, "the canonical event", tuple(core_problems(text))))
        older = {other: own[other] for other in own if other < number}
        found += _against(name, text, "project", older) + _against(name, text, "registry", registered)
    return found


def _versions(settings: RegistrySettings, *, offline: bool) -> tuple[dict[int, str], dict[int, str]]:
    """The project's and the registered ones."""
    registry = Registry(settings)
    try:
        return schema_versions(registry.folder), {} if offline else registry.versions()
    finally:
        registry.close()


def _against(name: str, text: str, where: str, versions: Mapping[int, str]) -> list[Verdict]:
    return [Verdict(name, f"{where}, v{number}", tuple(full_problems(text, old))) for number, old in versions.items()]
