"""Paged lists that move while they are read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from streaming.directory import MAX_ENTRIES, MAX_NAME, Page, text, whole_list
from streaming.errors import ServiceUnavailableError

Rows = list[dict[str, Any]]


class Vendor:
    """Gives ``size`` rows a page; ``between`` may change them after each."""

    def __init__(
        self, count: int, size: int, between: Callable[[Rows, int], None] = lambda _rows, _asked: None
    ) -> None:
        self.rows: Rows = [{"id": number, "name": f"n{number}"} for number in range(count)]
        self.size = size
        self.asked = 0
        self._between = between

    async def page(self, number: int, read: int) -> tuple[Rows, int]:
        assert read == number * self.size
        page, total = self.rows[read : read + self.size], len(self.rows)
        self.asked += 1
        self._between(self.rows, self.asked)
        return page, total

    def read(self) -> set[str]:
        return ids(self.page)


def ids(page: Page) -> set[str]:
    return set(asyncio.run(whole_list("queues", page, "id", lambda found_id, _row: found_id)))


def test_a_single_page_is_read_once_and_several_until_they_agree() -> None:
    small, large = Vendor(3, 3), Vendor(10, 3)
    assert small.read() == {"0", "1", "2"}
    assert small.asked == 1
    assert large.read() == {str(number) for number in range(10)}
    assert large.asked == 8
    assert Vendor(0, 3).read() == set()


@pytest.mark.parametrize("asked", range(1, 8))
def test_nobody_who_is_there_is_missing_when_another_goes(asked: int) -> None:
    def go(rows: Rows, now: int) -> None:
        if now == asked:
            rows.pop(0)
            rows.append({"id": "new", "name": "n"})  # so the number of all stays the same

    assert Vendor(10, 3, go).read() >= {str(number) for number in range(1, 10)}


def test_a_list_that_never_stands_still_or_has_no_end_is_refused() -> None:
    def go(rows: Rows, now: int) -> None:
        rows[0] = {"id": f"x{now}"}

    with pytest.raises(ServiceUnavailableError, match="queues: the list changed while it was read, 4 times"):
        Vendor(10, 3, go).read()

    async def same(_number: int, read: int) -> tuple[Rows, int]:
        return [{"id": 1}, {"id": 2}], max(read, 6)

    async def vast(_number: int, _read: int) -> tuple[Rows, int]:
        return [{"id": 1}], MAX_ENTRIES + 1

    with pytest.raises(ServiceUnavailableError, match="changed while it was read"):
        ids(same)
    with pytest.raises(ServiceUnavailableError, match=f"more than {MAX_ENTRIES} entries"):
        ids(vast)


@pytest.mark.parametrize("told", [250, 0])  # Genesys tells the number on every page, CXone's 204 none
def test_a_list_that_ends_early_is_refused(told: int) -> None:
    async def short(number: int, _read: int) -> tuple[Rows, int]:
        return ([{"id": each} for each in range(100)], 250) if number == 0 else ([], told)

    with pytest.raises(ServiceUnavailableError, match=r"queues: .*4 times \(100 of 250 entries came\)"):
        ids(short)

    async def nothing(_number: int, _read: int) -> tuple[Rows, int]:
        return [], 3

    with pytest.raises(ServiceUnavailableError, match="0 of 3 entries came"):
        ids(nothing)


def test_names_are_data() -> None:
    assert text("  A\x00B\nC\ud800 ") == "A B C"
    assert text("x" * 10_000) == "x" * MAX_NAME
    assert text(17) == "17"
    assert [text(value) for value in (None, "", " \t", True, 1.5, {"a": 1}, ["a"])] == [None] * 7
