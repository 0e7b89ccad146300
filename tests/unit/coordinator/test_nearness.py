"""Which devices are on one LAN."""

import pytest
from msgspec.structs import replace

from coordinator.fleet.file import FleetFile
from coordinator.fleet.nearness import is_near, network_of
from tiermesh.documents.fingerprint import Interface
from tiermesh.documents.problem import ProblemLink

BRIDGE = Interface(name="docker0", addresses=["172.17.0.1"], networks=["172.17.0.0/16"])


@pytest.fixture
def device(made, fleet):
    """Makes a device that is reached at an address, on a network."""

    def make(name, host, *networks, tier="edge"):
        described = made.described(name, address=f"{host}:7070", tier=tier)
        eth0 = Interface(name="eth0", addresses=[host.strip("[]")], networks=list(networks))
        print_ = replace(described.description.fingerprint, interfaces=[BRIDGE, eth0])
        told = replace(described, description=replace(described.description, fingerprint=print_))
        return fleet(told).devices[name]

    return make


def test_devices_of_one_network_are_near_and_others_are_not(device):
    a = device("a", "10.0.0.5", "10.0.0.0/24")
    b = device("b", "10.0.0.6", "10.0.0.0/24")
    c = device("c", "10.0.1.7", "10.0.1.0/24")
    assert is_near(a, b, FleetFile())
    assert not is_near(a, c, FleetFile()), (
        "the bridge of containers is on both, and connects nobody"
    )
    assert not is_near(a, a, FleetFile())
    assert network_of(a) == "10.0.0.0/24"


def test_loopback_is_near_to_loopback_only(device):
    a, b = device("a", "127.0.0.1"), device("b", "127.0.0.1")
    assert is_near(a, b, FleetFile())
    assert not is_near(a, device("c", "10.0.0.5", "10.0.0.0/24"), FleetFile())


def test_a_network_that_is_not_told_or_of_one_address_connects_nobody(device):
    a, b = device("a", "10.0.0.5"), device("b", "10.0.0.6")
    assert not is_near(a, b, FleetFile())
    c, d = device("c", "10.0.0.7", "10.0.0.7/32"), device("d", "10.0.0.7", "10.0.0.7/32")
    assert not is_near(c, d, FleetFile())
    assert network_of(device("e", "[fd00::5]", "nonsense", "fd00::/64")) == "fd00::/64"


@pytest.mark.parametrize(
    ("link", "near"),
    [
        ({}, True),
        ({"rtt_ms": 4.0, "capacity_mbps": 50}, True),
        ({"rtt_ms": 40.0}, False),
        ({"price_per_gib": 0.09}, False),
        ({"allowed": False}, False),
    ],
)
def test_what_the_fleet_file_says_of_a_link_decides(device, link, near):
    a = device("a", "10.0.0.5", "10.0.0.0/24", tier="edge")
    b = device("b", "10.9.0.6", "10.9.0.0/24", tier="hub")
    declared = FleetFile(links=[ProblemLink(source="hub", target="a", **link)])
    assert is_near(a, b, declared) is near
    assert not is_near(b, a, declared), "the other way nothing is said, and they share no network"
