"""Durability of files on a local disk."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make what was made, renamed or deleted in a folder durable: it is only once its folder is.

    Raises:
        OSError: the disk does not answer.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
