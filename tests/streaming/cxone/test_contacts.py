"""Lists of contacts over real HTTP: pages, moving lists, and vendors that do not keep to their own rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from streaming.errors import ConfigurationError, ServiceUnavailableError
from streaming.oauth import TokenSource
from streaming.rest import RestClient
from streaming.vendors.cxone.contacts import ContactsApi
from tests.streaming.cxone.vendor_rest import VendorRest, contact, states

START = datetime(2026, 11, 23, 9, tzinfo=UTC)
END = datetime(2026, 11, 23, 10, tzinfo=UTC)


@pytest.fixture
def vendor() -> Iterator[VendorRest]:
    made = VendorRest()
    yield made
    made.close()


@pytest.fixture
async def api(vendor: VendorRest) -> AsyncIterator[ContactsApi]:
    async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
        tokens = TokenSource(http, token_url=f"{vendor.url}/token", client_id="i", client_secret="s")
        rest = RestClient(http, tokens, requests_per_minute=6000, attempts=2, backoff=0.01)
        yield ContactsApi(rest, vendor.url, page=10)


async def ids(pages: AsyncIterator[list[Any]]) -> set[str]:
    return {row["contactId"] async for rows in pages for row in rows}


async def test_pages_overlap_and_ask_for_one_snapshot(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(number) for number in range(25)]

    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(25)}

    assert [query["skip"] for _, query in vendor.requests] == ["0", "5", "10", "15"]
    assert len({query["until"] for _, query in vendor.requests}) == 1
    assert api.steady


async def test_nothing_is_204(vendor: VendorRest, api: ContactsApi) -> None:
    assert await ids(api.completed(START, END)) == set()
    assert await ids(api.states(START, END)) == set()


async def test_a_full_last_page_is_followed_by_its_overlap_only(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.states = [row for number in range(5) for row in states(number)]
    assert len([row async for rows in api.states(START, END) for row in rows]) == 20 + 5 * 2
    assert api.steady


@pytest.mark.parametrize("most", [1, 2, 3, 7])
async def test_a_vendor_that_gives_fewer_rows_than_asked_for(vendor: VendorRest, api: ContactsApi, most: int) -> None:
    vendor.most_rows = most
    vendor.completed = [contact(number) for number in range(25)]
    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(25)}
    assert api.steady


@pytest.mark.parametrize("total", [None, 1_000, "25"])
async def test_a_total_that_is_wrong_or_absent_hides_nothing(vendor: VendorRest, api: ContactsApi, total: Any) -> None:
    vendor.total = total
    vendor.completed = [contact(number) for number in range(25)]
    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(25)}
    assert api.steady


async def test_a_row_that_vanishes_takes_no_other_with_it(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(number) for number in range(40)]

    def remove(vendor: VendorRest, number: int) -> None:
        if number == 1:
            del vendor.completed[0]

    vendor.between_pages = remove

    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(40)}
    assert api.steady


async def test_more_rows_vanish_than_pages_overlap(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(number) for number in range(40)]

    def remove(vendor: VendorRest, number: int) -> None:
        if number == 1:
            del vendor.completed[:8]

    vendor.between_pages = remove

    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(40)}


async def test_a_row_that_appears_on_a_page_already_read_is_found(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(number) for number in range(1, 30)]

    def insert(vendor: VendorRest, number: int) -> None:
        if number == 2:
            vendor.completed.insert(0, contact(0))

    vendor.between_pages = insert

    assert await ids(api.completed(START, END)) == {f"c-{number}" for number in range(30)}
    assert api.steady


async def test_a_list_that_never_stands_still_is_said(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(number) for number in range(30)]

    def move(vendor: VendorRest, number: int) -> None:
        vendor.completed.insert(0, vendor.completed.pop(3))
        vendor.completed.append(contact(100 + number))

    vendor.between_pages = move

    assert {f"c-{number}" for number in range(30)} <= await ids(api.completed(START, END))
    assert not api.steady


async def test_a_vendor_that_ignores_skip_is_not_asked_for_ever(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.completed = [contact(0)] * 100
    with pytest.raises(ServiceUnavailableError, match="ignores skip"):
        await ids(api.completed(START, END))


async def test_a_missing_scope_is_named(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.status = 403
    with pytest.raises(ConfigurationError, match="event:read"):
        await ids(api.completed(START, END))


async def test_an_answer_of_another_shape_is_no_empty_list(vendor: VendorRest, api: ContactsApi) -> None:
    vendor.status = 201
    with pytest.raises(ServiceUnavailableError, match="no completedContacts"):
        await ids(api.completed(START, END))
