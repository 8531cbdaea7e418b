from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Platform
from tests.streaming.crm.support import Crm, CrmPath


@pytest.fixture
def crm(tmp_path: Path) -> Iterator[Crm]:
    """The simulated CRM."""
    running = Crm(tmp_path)
    yield running
    running.close()


@pytest.fixture
def path(platform: Platform, crm: Crm) -> Iterator[CrmPath]:
    """One tenant of three partitions."""
    with contextlib.closing(CrmPath(platform, crm)) as made:
        yield made
