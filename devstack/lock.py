"""The lock file: which Maven artifacts the local stack runs, with size and SHA-256 of each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from devstack.errors import ArtifactError

LOCK_FILE = Path(__file__).with_name("artifacts.toml")

# What is locked: Kafka with every jar that it depends on (kafka-tools formats the storage); its log binding, without
# which slf4j 1.7 prints nothing; the registry's archive. The binding is not part of the endpoint: jgo takes each
# coordinate's POM for a bill of materials, and log4j's pins an older kafka-clients.
KAFKA_ENDPOINT = "org.apache.kafka:kafka_2.13:4.3.1+org.apache.kafka:kafka-tools:4.3.1"
LOG_BINDING_PATH = "org/apache/logging/log4j/log4j-slf4j-impl/2.25.4/log4j-slf4j-impl-2.25.4.jar"
REGISTRY_PATH = "io/apicurio/apicurio-registry-app/2.5.11.Final/apicurio-registry-app-2.5.11.Final-all.tar.gz"

_SHA256 = re.compile(r"[0-9a-f]{64}")
_HEADER = """\
# Written by `python -m devstack.artifacts lock`; do not edit. Paths are those of a Maven repository, sizes are bytes.
"""


@dataclass(frozen=True, slots=True)
class Pin:
    """One artifact as it must be.

    Attributes:
        path: its place in a Maven repository, ``group/as/folders/artifact/version/file``.
        size: bytes.
        sha256: lower-case hexadecimal digest.
    """

    path: str
    size: int
    sha256: str

    @property
    def name(self) -> str:
        """The file's name."""
        return PurePosixPath(self.path).name

    @property
    def coordinate(self) -> str:
        """``group:artifact:version``, for messages."""
        return ":".join(split_path(self.path)[:3])


def split_path(path: str) -> tuple[str, str, str, str, str]:
    """Group, artifact, version, classifier (may be empty) and packaging of a path in a Maven repository.

    Raises:
        ValueError: the path has not that form.
    """
    parts = PurePosixPath(path).parts
    if len(parts) < 4:
        msg = f"{path!r} is no path of a Maven artifact"
        raise ValueError(msg)
    *group, artifact, version, name = parts
    rest = name.removeprefix(f"{artifact}-{version}")
    classifier, dot, packaging = rest.partition(".")
    if rest == name or not dot or (classifier and not classifier.startswith("-")):
        msg = f"{path!r} is no path of a Maven artifact"
        raise ValueError(msg)
    return ".".join(group), artifact, version, classifier[1:], packaging


@dataclass(frozen=True, slots=True)
class Lock:
    """The locked artifacts: Kafka's class path and the registry's archive."""

    kafka: tuple[Pin, ...]
    registry: Pin


def read_lock(path: Path = LOCK_FILE) -> Lock:
    """Read the lock file.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        return Lock(tuple(_pin(entry) for entry in document["kafka"]), _pin(document["registry"][0]))
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        msg = f"{path}: not a usable lock file ({error}); restore it from version control"
        raise ArtifactError(msg) from error


def write_lock(lock: Lock, path: Path = LOCK_FILE) -> None:
    """Write the lock file, entries in order of their paths so that a change shows as a small difference."""
    lines = [_HEADER]
    lines += _tables("kafka", sorted(lock.kafka, key=lambda pin: pin.path))
    lines += _tables("registry", [lock.registry])
    path.write_text("\n".join(lines), encoding="utf-8")


def _tables(name: str, pins: Iterable[Pin]) -> list[str]:
    return [f'[[{name}]]\npath = "{pin.path}"\nsize = {pin.size}\nsha256 = "{pin.sha256}"\n' for pin in pins]


def _pin(entry: dict[str, object]) -> Pin:
    path, size, sha256 = entry["path"], entry["size"], entry["sha256"]
    if not isinstance(path, str) or not isinstance(size, int) or not isinstance(sha256, str):
        msg = "path and sha256 must be text, size a number"
        raise TypeError(msg)
    split_path(path)
    if not _SHA256.fullmatch(sha256):
        msg = f"sha256 of {path} is not 64 hexadecimal digits"
        raise ValueError(msg)
    return Pin(path, size, sha256)
