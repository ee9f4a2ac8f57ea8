"""A crowd of calls at once, and an impatient one while most of them wait."""

import asyncio
import time

CROWD = 40
BURST = 10


async def crowd(call, failure, described):
    """Lets everybody `call`; `failure` is what a call may raise, and `described` makes a dictionary of it."""
    waiting = [asyncio.create_task(call()) for _ in range(CROWD)]
    while sum(task.done() for task in waiting) < BURST:
        await asyncio.wait([task for task in waiting if not task.done()], return_when=asyncio.FIRST_COMPLETED)
    impatient, refused = time.monotonic(), None
    try:
        await call(timeout=2)
    except failure as error:
        refused = described(error) | {"seconds": time.monotonic() - impatient}
    results = await asyncio.gather(*waiting, return_exceptions=True)
    return {
        "errors": [repr(result) for result in results if result is not None],
        "refused": refused,
    }
