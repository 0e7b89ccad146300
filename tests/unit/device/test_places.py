"""Which addresses an agent announces, and on which interfaces."""

import pytest

from tiermesh import wire

ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound
KNOWN = ["127.0.0.1", "::1", "10.0.0.5", "fe80::5", "fd00::5"]
SIX_ONLY = ["127.0.0.1", "::1", "fe80::5", "fd00::5"]


@pytest.mark.parametrize(
    ("host", "known", "addresses"),
    [
        (ANYWHERE, KNOWN, ["10.0.0.5"]),
        ("::", KNOWN, ["10.0.0.5", "fd00::5"]),
        ("::", SIX_ONLY, ["fd00::5"]),
        (ANYWHERE, SIX_ONLY, []),
        ("10.0.0.5", KNOWN, ["10.0.0.5"]),
        ("fd00::5", KNOWN, ["fd00::5"]),
    ],
)
def test_what_can_be_reached_is_announced(host, known, addresses):
    assert wire.announced(wire.INSECURE_LAN, host, known).addresses == addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1"])
def test_on_loopback_the_address_that_is_listened_on_is_announced(host):
    found = wire.announced(wire.LOOPBACK, host, KNOWN)
    assert found.addresses == [host]
    assert found.interfaces == ["127.0.0.1"]
