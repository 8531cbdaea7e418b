"""Stores of every kind: a path, the same as a URL, and an object store."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streaming.sink.store import Store, open_store
from tests.s3 import S3Server, s3_server


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["path", "file", "s3"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / uuid.uuid4().hex
    if request.param == "path":
        return str(folder)
    return f"file://{folder}" if request.param == "file" else request.getfixturevalue("s3").new_folder()


@pytest.fixture
def store(location: str) -> Store:
    return open_store(location)
