"""A coordinator at work: commands beside it are carried out by it, as if they ran alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat

import pytest

from coordinator.commands import listening as listening_module
from coordinator.commands.asking import ask
from coordinator.commands.listening import listening
from coordinator.commands.messages import SOCKET_NAME, VERSION, Ask, Say, encode
from tiermesh import limits
from tiermesh.errors import LimitExceeded, StorageFull, TiermeshError, Unsupported


async def test_commands_are_carried_out_by_the_coordinator_at_work(
    coordinator, standing, planned, folder, tmp_path
):
    applied = await coordinator("apply", "plan.json", "--json")
    assert applied.code == 0, applied.err
    assert applied.document["outcome"] == "committed"
    assert "cam-1 rollout: committed" in applied.err, "progress comes too"

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    words = ["plan", folder / "read.yaml", "-o", "again.json", "--state"]
    planned_again = await coordinator(*words, folder / "home" / "coordinator", cwd=elsewhere)
    assert planned_again.code == 0, planned_again.err
    assert "USD/h" in planned_again.out
    assert (elsewhere / "again.json").is_file(), "paths are those of the command's own folder"

    found = await coordinator("devices", "--expect", 2)
    assert found.code == 0
    assert "cam-1" in found.out
    status = await coordinator("events", "--kind", "rollout-committed", "--json")
    assert len(status.document["events"]) >= 1


async def test_errors_and_exit_codes_are_those_of_the_command(
    coordinator, standing, planned, folder
):
    missing = await coordinator("apply", "nowhere.json", "--json")
    assert missing.code == 2
    assert missing.document["error"]["kind"] == "invalid-document"
    assert "nowhere.json" in missing.err
    other = await coordinator("plan", "read.yaml", "--mesh", "another")
    assert other.code == 1
    assert "--mesh cannot be given while a coordinator is at work" in other.err
    planned[0].fail["prepare"] = StorageFull("the disk is full")
    failed = await coordinator("apply", "plan.json", "--json")
    assert failed.code == 4
    assert failed.document["outcome"] == "aborted"


async def test_what_cannot_be_drained_or_rolled_back_says_why(coordinator, standing, planned):
    assert (await coordinator("apply", "plan.json")).code == 0
    drained = await coordinator("drain", "hub-1", "--json")
    assert drained.code == 3
    assert "hub-1 cannot be drained" in drained.document["error"]["what"]
    assert "ready" in (await coordinator("devices")).out
    back = await coordinator("rollback")
    assert back.code == 1
    assert "no other plan served it before" in back.err
    unknown = await coordinator("drain", "moon")
    assert unknown.code == 2
    assert "Known: cam-1, hub-1" in unknown.err


async def test_ctrl_c_gives_the_rollout_up_and_waits_for_that(started, standing, planned):
    planned[0].hold["prepare"] = asyncio.Event()
    process = await started("apply", "plan.json")
    async with asyncio.timeout(30):
        while "prepare" not in planned[0].calls:
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130, err.decode()
    assert "interrupted" in err.decode()
    assert all("abort" in agent.calls for agent in planned)
    assert planned[0].generations == {}


async def test_it_tells_what_happens_and_ends_in_peace(coordinator, standing, planned):
    await coordinator("apply", "plan.json")
    standing.terminate()
    out, err = await standing.communicate()
    assert standing.returncode == 0
    happened = [json.loads(line) for line in out.decode().splitlines()]
    kinds = [event["event"] for event in happened]
    assert "rollout-started" in kinds
    assert happened[-1]["text"] == "the coordinator was told to end"
    assert "goes on serving" in err.decode()
    assert planned[0].generations == {"read": 1}, "serving goes on"
    after = await coordinator("devices", "--no-browse")
    assert after.code == 0, "commands work alone again"


async def test_a_killed_coordinators_socket_is_recognised_and_replaced(
    coordinator, started, standing, planned, folder
):
    socket_path = folder / "home" / "coordinator" / SOCKET_NAME
    assert stat.S_IMODE(socket_path.stat().st_mode) == 0o600
    standing.kill()
    await standing.communicate()
    assert socket_path.exists()
    alone = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert alone.code == 0, alone.err
    again = await started("run", "--no-browse")
    async with asyncio.timeout(30):
        while b"is at work" not in await again.stderr.readline():
            pass
    carried = await coordinator("apply", "plan.json", "--json")
    assert carried.document["unchanged"]
    again.terminate()
    await again.communicate()


async def test_a_second_coordinator_is_refused(coordinator, standing):
    second = await coordinator("run", "--no-browse")
    assert second.code == 1
    assert "another coordinator uses" in second.err


@pytest.fixture
def shown():
    return []


@pytest.fixture
def show(shown):
    return lambda stream, text: shown.append((stream, text))


async def test_another_version_is_one_clear_error(tmp_path, show):
    async def never(wanted, voice):
        raise AssertionError

    async with listening(tmp_path, never):
        with pytest.raises(Unsupported, match=r"this command of 0\.0\.1/1") as caught:
            await ask(tmp_path, Ask(version="0.0.1/1"), show)
    assert caught.value.fields["coordinator"] == VERSION


async def test_a_folder_without_a_coordinator_and_one_whose_coordinator_is_gone(tmp_path, show):
    assert await ask(tmp_path, Ask(version=VERSION), show) is None
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / SOCKET_NAME))
    assert await ask(tmp_path, Ask(version=VERSION), show) is None


async def test_long_paths_and_long_texts_go_through(tmp_path, show, shown):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()

    async def talk(wanted, voice):
        voice.say("out", "x" * 3_000_000)
        voice.say("err", "done")
        return 7

    async with listening(folder, talk):
        assert await ask(folder, Ask(version=VERSION), show) == 7
    assert sum(len(text) for stream, text in shown if stream == "out") == 3_000_000


async def test_a_coordinator_that_ends_cancels_and_the_command_says_so(tmp_path, show):
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(wanted, voice):
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with listening(tmp_path, wait):
        asking = asyncio.ensure_future(ask(tmp_path, Ask(version=VERSION), show))
        await begun.wait()
    assert ended.is_set()
    with pytest.raises(TiermeshError, match="ended before this command was done"):
        await asking


async def test_a_client_that_vanishes_cancels_its_command(tmp_path):
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(wanted, voice):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with listening(tmp_path, wait):
        _, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
        writer.write(encode(Ask(version=VERSION)))
        await begun.wait()
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_what_is_no_message_or_too_long_is_dropped(tmp_path, show, monkeypatch):
    async def never(wanted, voice):
        raise AssertionError

    monkeypatch.setattr(listening_module, "ASK_S", 0.2)
    async with listening(tmp_path, never):
        for sent in (b"\x00\x00\x00\x02{}", b"\xff\xff\xff\xff", b"", encode(Say("out", "?"))):
            reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
    with pytest.raises(LimitExceeded):
        encode(Ask(version=VERSION, words=["x" * limits.COMMAND_MESSAGE_BYTES]))


async def test_another_user_is_not_served(tmp_path, show, monkeypatch):
    async def never(wanted, voice):
        raise AssertionError

    monkeypatch.setattr(listening_module.os, "geteuid", lambda: os.getuid() + 1)
    async with listening(tmp_path, never):
        with pytest.raises(Unsupported, match="is another user's"):
            await ask(tmp_path, Ask(version=VERSION), show)
