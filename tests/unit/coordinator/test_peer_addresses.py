"""What a peer is told of where a device takes frames."""

import pytest
from msgspec.structs import replace

from coordinator.rollout.peer_addresses import peer_address
from tiermesh.documents.fingerprint import Interface
from tiermesh.errors import Unreachable

ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound
BRIDGE = Interface(name="docker0", addresses=["172.17.0.1"], networks=["172.17.0.0/16"])


@pytest.fixture
def device(fleet, made):
    def add(number, *interfaces, reached, listens_on, host=None):
        name = f"dev-{number}"
        described = made.described(
            name, address=f"{reached}:7000", host=host or f"host-{number}", port=7001
        )
        said = described.description
        found = replace(said.fingerprint, interfaces=list(interfaces))
        data = f"[{listens_on}]:7001" if ":" in listens_on else f"{listens_on}:7001"
        told = replace(said, fingerprint=found, data_address=data)
        return fleet(replace(described, description=told)).devices[name]

    return add


def lan(last, network="10.0.0"):
    return Interface(
        name="eth0", addresses=[f"{network}.{last}"], networks=[f"{network}.0/24"], speed_mbps=100
    )


def test_an_address_that_is_listened_on_is_told_as_it_is(device):
    here = device(1, lan(1), reached="10.0.0.1", listens_on="10.0.0.1")
    there = device(2, lan(2), reached="10.0.0.2", listens_on="10.0.0.2")
    assert peer_address(there, here) == "10.0.0.2:7001"


def test_of_a_device_that_listens_everywhere_peers_are_told_the_address_of_their_network(device):
    wifi = Interface(name="wlan0", addresses=["192.168.7.2"], networks=["192.168.7.0/24"])
    here = device(1, BRIDGE, lan(1), reached="10.0.0.1", listens_on=ANYWHERE)
    there = device(2, BRIDGE, wifi, lan(2), reached="192.168.7.2", listens_on=ANYWHERE)
    elsewhere = device(3, lan(9, "10.9.9"), reached="10.9.9.9", listens_on=ANYWHERE)
    assert peer_address(there, here) == "10.0.0.2:7001"
    assert peer_address(there, elsewhere) == "192.168.7.2:7001", "as the coordinator reaches it"


def test_a_coordinator_that_reaches_a_device_by_loopback_does_not_hand_that_on(device):
    here = device(1, lan(1), reached="127.0.0.1", listens_on=ANYWHERE)
    there = device(2, lan(2), reached="10.0.0.2", listens_on=ANYWHERE)
    assert peer_address(here, there) == "10.0.0.1:7001"
    beside = device(4, lan(1), reached="127.0.0.1", listens_on=ANYWHERE, host="host-1")
    assert peer_address(beside, here) == "127.0.0.1:7001"


def test_an_address_that_both_have_is_not_told(device):
    here = device(1, BRIDGE, reached="172.17.0.1", listens_on=ANYWHERE)
    there = device(2, BRIDGE, reached="172.17.0.1", listens_on=ANYWHERE)
    with pytest.raises(Unreachable, match=r"dev-1 cannot reach dev-2.*no address that dev-1 has"):
        peer_address(there, here)


def test_ipv6_is_told_where_the_device_takes_it(device):
    six = Interface(name="eth0", addresses=["fe80::1", "fd00::2"], networks=["fd00::/64"])
    here = device(1, lan(1), reached="10.0.0.1", listens_on="10.0.0.1")
    there = device(2, six, reached="fd00::2", listens_on="::")
    assert peer_address(there, here) == "[fd00::2]:7001"
    four = device(3, six, lan(3), reached="10.0.0.3", listens_on=ANYWHERE)
    assert peer_address(four, there) == "10.0.0.3:7001"


def test_a_loopback_address_leads_nowhere_from_another_machine(device):
    here = device(1, lan(1), reached="10.0.0.1", listens_on="10.0.0.1")
    there = device(2, reached="127.0.0.1", listens_on="127.0.0.1")
    with pytest.raises(Unreachable, match=r"dev-2 listens on 127\.0\.0\.1 only"):
        peer_address(there, here)
