"""The watchdog ends a process whose loop is stuck, and no other."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

LOOP = """
import time
from streaming.health import Progress, ended_when_stuck
progress = Progress()
with ended_when_stuck(progress, after_s={after_s}):
    for _ in range(20):
        time.sleep(0.1)
        {step}
time.sleep({rest})
print("through")
"""


@pytest.mark.parametrize(
    ("step", "after_s", "rest", "status", "said"),
    [
        ("pass", 0.5, 0, os.EX_SOFTWARE, "the loop is stuck"),
        ("progress.step()", 1.5, 0, 0, "through"),
        ("progress.step()", 1.5, 3, 0, "through"),  # outside nobody watches
    ],
)
def test_a_loop_without_a_step_ends_the_process(step: str, after_s: float, rest: float, status: int, said: str) -> None:
    program = LOOP.format(step=step, after_s=after_s, rest=rest)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == status
    assert said in ended.stdout
