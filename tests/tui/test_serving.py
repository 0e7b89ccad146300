"""The app in a browser: served on loopback, to this machine's own page only."""

from __future__ import annotations

import asyncio
import signal

import aiohttp
import pytest

from tests.commands import Commands
from tiermesh import wire


@pytest.fixture
async def served(tmp_path):
    """The address of a served app on an empty state folder."""
    commands = Commands(TIERMESH_HOME=str(tmp_path))
    port = wire.free_port()
    words = ("--serve", port, "--state", tmp_path / "state", "--no-browse")
    command = await commands.start("coordinator.cli", *words)
    await command.says(f"http://127.0.0.1:{port}")
    yield f"127.0.0.1:{port}"
    await commands.close()


async def fetched(session, url, **options):
    """A page, once the server listens."""
    async with asyncio.timeout(20):
        while True:
            try:
                async with session.get(url, **options) as answer:
                    return answer.status, await answer.text()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.1)


async def test_the_app_is_shown_in_a_browser_of_this_machine(served):
    async with aiohttp.ClientSession() as session:
        status, page = await fetched(session, f"http://{served}/")
        assert status == 200
        assert "Tiermesh" in page
        shown = b""
        async with session.ws_connect(
            f"ws://{served}/ws?width=100&height=30", origin=f"http://{served}"
        ) as socket:
            async with asyncio.timeout(30):
                while b"tiermesh" not in shown:
                    message = await socket.receive()
                    assert (
                        message.type is aiohttp.WSMsgType.BINARY
                        or message.type is aiohttp.WSMsgType.TEXT
                    )
                    shown += (
                        message.data if isinstance(message.data, bytes) else message.data.encode()
                    )


async def test_pages_of_others_are_refused(served):
    async with aiohttp.ClientSession() as session:
        await fetched(session, f"http://{served}/")
        status, _ = await fetched(session, f"http://{served}/", headers={"Host": "evil.example:80"})
        assert status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"ws://{served}/ws", origin="http://evil.example")
        assert refused.value.status == 403


async def test_it_ends_when_it_is_told_to(tmp_path):
    commands = Commands(TIERMESH_HOME=str(tmp_path))
    port = wire.free_port()
    command = await commands.start(
        "coordinator.cli", "--serve", port, "--state", tmp_path / "state"
    )
    async with aiohttp.ClientSession() as session:
        await fetched(session, f"http://127.0.0.1:{port}/")
    command.process.send_signal(signal.SIGINT)
    await command.end()
    assert (command.code, "Traceback" in command.said) == (0, False), command.said
    await commands.close()


async def test_a_port_that_is_taken_is_an_error_in_words(tmp_path):
    commands = Commands(TIERMESH_HOME=str(tmp_path))
    with wire.listening_socket(wire.LOOPBACK, "127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        command = await commands.run(
            "coordinator.cli", "--serve", port, "--state", tmp_path / "state"
        )
    assert command.code == 1
    assert f"cannot listen on 127.0.0.1:{port}" in command.said
    assert "Traceback" not in command.said
    await commands.close()
