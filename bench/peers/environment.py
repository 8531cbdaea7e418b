"""Virtual environments of peers whose dependencies the platform shall not have."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

_FOLDER = Path(__file__).parents[2] / ".ccaas" / "peers"
_INSTALL_SECONDS = 300.0


def peer_python(name: str, requirements: tuple[str, ...]) -> Path:
    """The Python of an environment with these packages; made at the first use, kept under ``.ccaas/peers``.

    Args:
        name: Of the peer, part of the folder's name.
        requirements: Pinned, as pip takes them; others make another environment.

    Raises:
        RuntimeError: the packages can't be installed; the message has the end of pip's output.
    """
    digest = hashlib.sha256("\n".join((sys.version, *requirements)).encode()).hexdigest()[:12]
    folder = _FOLDER / f"{name}-{digest}"
    python = folder / "bin" / "python"
    complete = folder / ".complete"
    if not complete.exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        command: list[str | Path] = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *requirements,
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
        if done.returncode:
            msg = f"{name}: its packages can't be installed: {done.stderr[-1000:]}"
            raise RuntimeError(msg)
        complete.touch()
    return python
