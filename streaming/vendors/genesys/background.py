"""Tasks that live as long as what they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack


def run_until_exit(exits: AsyncExitStack, coroutine: Coroutine[None, None, None]) -> asyncio.Task[None]:
    """Run it until the stack is left; its end is waited for there."""
    task = asyncio.create_task(coroutine)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    exits.push_async_callback(end)
    return task
