"""Watching: what waits for a slow reader is the newest sample of each device, with every event since the last one."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace

from coordinator.sessions.session import Listener, Lost
from coordinator.telemetry.watching import Watching
from tiermesh.v1 import telemetry_pb2 as pb


class Session:
    """A session with a device that says what the test says."""

    link = None

    def __init__(self):
        self.listener = Listener(1_000)
        self.waited_for = False

    @contextlib.contextmanager
    def listening(self, interval_ms):
        yield self.listener

    async def connected(self):
        self.waited_for = True
        await asyncio.Event().wait()


def watching(sessions, now):
    devices = [SimpleNamespace(id=name) for name in sessions]
    knowing = SimpleNamespace(fleet=SimpleNamespace(devices={}))
    to = SimpleNamespace(to=sessions.__getitem__)
    return Watching(knowing, None, to, devices, now=now, interval_s=1.0)


async def settled():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_slow_reader_gets_the_newest_sample_with_all_events_since():
    session, clock = Session(), [1.0]
    stream = watching({"a": session}, lambda: clock[0]).stream()
    session.listener.tell(pb.Sample(number=1))
    assert (await anext(stream)).sample.number == 1
    for number in range(2, 9):
        session.listener.tell_event(pb.DeviceEvent(number=number))
        session.listener.tell(pb.Sample(number=number))
        await settled()
    clock[0] = 5.0
    observed = await anext(stream)
    assert observed.sample.number == 8
    assert [event.number for event in observed.sample.events] == list(range(2, 9))
    assert observed.received_at == 5.0
    await stream.aclose()


async def test_a_device_that_is_lost_is_looked_for_at_once_although_the_reader_is_slow():
    session = Session()
    stream = watching({"a": session}, lambda: 1.0).stream()
    session.listener.tell(pb.Sample(number=1))
    await anext(stream)
    session.listener.tell_lost(Lost("gone"))
    await settled()
    assert session.waited_for
    await stream.aclose()


async def test_devices_take_turns_and_one_that_is_lost_says_why_before_it_is_heard_again():
    sessions = {"a": Session(), "b": Session()}
    stream = watching(sessions, lambda: 1.0).stream()
    for session in sessions.values():
        session.listener.tell(pb.Sample(number=1))
    seen = [await anext(stream), await anext(stream)]
    assert {observed.device.id for observed in seen} == {"a", "b"}
    sessions["a"].listener.tell_lost(Lost("gone"))
    sessions["b"].listener.tell(pb.Sample(number=2))
    seen = [await anext(stream), await anext(stream)]
    assert {(o.device.id, o.why, o.sample is None) for o in seen} == {
        ("a", "gone", True),
        ("b", "", False),
    }
    await stream.aclose()
