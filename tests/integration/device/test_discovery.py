"""Announcements over real multicast on loopback."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from agent.discovery import SERVICE, Advertisement
from tiermesh import PROTOCOL_VERSION, wire
from tiermesh.ids import new_device_id

ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound
SOON_S = 10.0


@dataclass
class Device:
    device_id: str
    name: str = "cam"


class Browser:
    """The properties of all that is announced, by id, as a browser resolves them."""

    def __init__(self, zeroconf: AsyncZeroconf) -> None:
        self._zeroconf = zeroconf
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.seen: dict[str, dict[str, Any]] = {}

    def on_change(
        self, zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        task = asyncio.create_task(self._resolve(name, state_change))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, name: str, change: ServiceStateChange) -> None:
        info = AsyncServiceInfo(SERVICE, name)
        if change is ServiceStateChange.Removed:
            self.seen.pop(name.partition(".")[0], None)
        elif await info.async_request(self._zeroconf.zeroconf, 3_000):
            known = dict(info.decoded_properties)
            known["address"] = f"{info.parsed_addresses()[0]}:{info.port}"
            self.seen[known["id"] or ""] = known
        self._changed.set()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(SOON_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.1"], ip_version=IPVersion.V4Only)
    browser = Browser(zeroconf)
    service = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[browser.on_change])
    yield browser
    await service.async_cancel()
    await zeroconf.async_close()


def advertisement(device: Device, port: int, host: str = "127.0.0.1") -> Advertisement:
    return Advertisement(device, tier="edge", host=host, port=port, data_address="127.0.0.1:7071")


async def test_two_devices_of_one_name_are_seen_changed_and_gone(browser: Browser) -> None:
    ids = [new_device_id(), new_device_id()]
    one, two = (advertisement(Device(device), 7001 + n) for n, device in enumerate(ids))
    await one.start()
    await two.start()
    await browser.until(lambda: all(device in browser.seen for device in ids))
    found = browser.seen[ids[0]]
    assert found["address"] == "127.0.0.1:7001"
    assert (found["name"], found["tier"], found["enrolled"]) == ("cam", "edge", "no")
    assert (found["data"], found["protocol"]) == ("127.0.0.1:7071", str(PROTOCOL_VERSION))
    await one.update(tier="hub")
    await browser.until(lambda: browser.seen[ids[0]]["tier"] == "hub")
    await one.stop()
    await browser.until(lambda: ids[0] not in browser.seen)
    assert ids[1] in browser.seen
    await two.stop()


async def test_without_multicast_the_agent_goes_on_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr("zeroconf.asyncio.AsyncZeroconf.__init__", refuse)
    silent = advertisement(Device("silent"), 7003)
    with caplog.at_level(logging.WARNING):
        await silent.start()
    assert "Network is unreachable; add this device by its address" in caplog.text
    await silent.update(tier="hub")
    await silent.stop()


async def test_an_address_of_ipv6_is_announced(browser: Browser) -> None:
    device = new_device_id()
    six = advertisement(Device(device), 7004, host="::1")
    await six.start()
    await browser.until(lambda: device in browser.seen)
    assert browser.seen[device]["address"] == "::1:7004"
    await six.stop()


async def test_an_agent_that_no_address_leads_to_says_so(caplog: pytest.LogCaptureFixture) -> None:
    nowhere = Advertisement(
        Device("nowhere"),
        tier="edge",
        host=ANYWHERE,
        port=7005,
        data_address=f"{ANYWHERE}:7071",
        credentials=wire.INSECURE_LAN,
        known=lambda: ["127.0.0.1", "fe80::5", "fd00::5"],
    )
    with caplog.at_level(logging.WARNING):
        await nowhere.start()
    assert "0.0.0.0 takes no address that this machine has (fd00::5)" in caplog.text
    await nowhere.stop()
