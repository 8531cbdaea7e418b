from __future__ import annotations

import random

from streaming.acks import AckTracker


def test_the_position_follows_the_last_contiguous_acknowledgement() -> None:
    tracker: AckTracker[str] = AckTracker()
    first, second, third = (tracker.begin(name, 2) for name in ("a", "b", "c"))
    tracker.acknowledge(second)
    tracker.acknowledge(second)
    tracker.acknowledge(third)
    assert tracker.acknowledged is None
    tracker.acknowledge(first)
    assert tracker.acknowledged is None
    tracker.acknowledge(first)
    assert tracker.acknowledged == "b"
    assert len(tracker) == 1


def test_an_input_that_became_nothing_is_done_in_its_turn() -> None:
    tracker: AckTracker[int] = AckTracker()
    tracker.begin(1, 0)
    assert tracker.acknowledged == 1
    entry = tracker.begin(2, 1)
    tracker.begin(3, 0)
    assert tracker.acknowledged == 1
    tracker.acknowledge(entry)
    assert tracker.acknowledged == 3


def test_in_any_order_the_position_never_passes_an_open_input() -> None:
    random.seed(3)
    tracker: AckTracker[int] = AckTracker()
    counts = [random.randrange(4) for _ in range(200)]
    entries = [tracker.begin(position, count) for position, count in enumerate(counts)]
    acknowledgements = [position for position, count in enumerate(counts) for _ in range(count)]
    random.shuffle(acknowledgements)
    left = list(counts)
    for position in acknowledgements:
        left[position] -= 1
        tracker.acknowledge(entries[position])
        done = next((index for index, count in enumerate(left) if count), len(left)) - 1
        assert (tracker.acknowledged if tracker.acknowledged is not None else -1) == done
    assert len(tracker) == 0
