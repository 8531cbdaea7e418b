"""Items cut into batches by size and number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from sys import maxsize
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: Callable[[T], int], max_size: int, max_items: int = maxsize) -> Iterator[list[T]]:
    """Cut items, in order, into batches of at most ``max_size`` together (or one larger item) and ``max_items``."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and (total + size(item) > max_size or len(batch) >= max_items):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
