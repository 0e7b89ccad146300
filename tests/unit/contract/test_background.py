"""Work that nobody waits for: its exceptions are heard."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from tiermesh.background import Background, submit


async def test_a_task_that_fails_is_logged_with_its_name(caplog):
    background = Background()

    async def fails():
        raise UnicodeEncodeError("utf-8", "caf\udce9", 3, 4, "surrogates not allowed")

    with caplog.at_level(logging.ERROR):
        background.start(fails(), "reading")
        await background.finish()
    assert "reading failed" in caplog.text
    assert "surrogates not allowed" in caplog.text
    assert len(background) == 0


async def test_a_task_is_kept_until_it_ends_and_ends_with_close(caplog):
    background = Background()
    begun = asyncio.Event()

    async def waits():
        begun.set()
        await asyncio.Event().wait()

    task = background.start(waits(), "waiting")
    await begun.wait()
    assert len(background) == 1
    await background.close()
    assert task.cancelled()
    assert caplog.text == ""


def test_what_a_job_in_a_thread_raises_is_handed_on():
    failures: list[BaseException] = []
    done: list[int] = []
    with ThreadPoolExecutor(1) as threads:
        submit(threads, failures.append, int, "no number")
        submit(threads, failures.append, done.append, 7)
    assert done == [7]
    assert [type(error) for error in failures] == [ValueError]
