"""Spans are a set of offsets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import streaming.reprocess.spans
from streaming.reprocess.spans import Spans

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1])), max_size=25)


@pytest.mark.parametrize("loose", [1, 3, 1000])
@given(pairs=PAIRS)
def test_they_hold_what_was_put_in(pairs: list[tuple[int, int]], loose: int) -> None:
    wanted = {offset for first, last in pairs for offset in range(first, last + 1)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming.reprocess.spans, "_MAX_LOOSE", loose)
        spans = Spans(pairs)
    assert {offset for offset in range(80) if offset in spans} == wanted
    found = list(spans)
    assert {offset for first, last in found for offset in range(first, last + 1)} == wanted
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found)), "apart"
    for offset in range(80):
        assert spans.first_absent(offset) == min(set(range(offset, 200)) - wanted)
