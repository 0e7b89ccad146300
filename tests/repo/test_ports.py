"""Ports, sockets and channels are opened in `tiermesh.wire`, and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIRE = ROOT / "proto/tiermesh/wire"
MODULES = {"http", "ftplib", "select", "selectors", "smtplib", "socket", "socketserver", "ssl"}
"""Modules of the standard library that have no other use than sockets."""
CALLS = {
    "add_insecure_port",
    "add_secure_port",
    "aio.insecure_channel",
    "aio.secure_channel",
    "aio.server",
    "grpc.insecure_channel",
    "grpc.secure_channel",
    "grpc.server",
    "create_connection",
    "create_datagram_endpoint",
    "create_server",
    "create_unix_connection",
    "create_unix_server",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
    "AsyncZeroconf",
    "Zeroconf",
    "TCPSite",
    "UnixSite",
}
"""The end of what is called, as far as tells it from others."""
ALLOWED: dict[str, set[str]] = {
    # Commands to a coordinator of this machine, over a Unix socket in its folder: the file's mode says who may.
    "coordinator/api/unix_socket.py": {
        "socket",
        "aio.server",
        "add_insecure_port",
        "aio.insecure_channel",
    },
}


def opened(source: str) -> Iterator[str]:
    """What a module imports and calls that opens sockets."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from sorted(names & MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").partition(".")[0]}
            yield from sorted(names & MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            yield from (one for one in CALLS if f".{called}".endswith(f".{one}"))
            if called.endswith("run_app") and not any(k.arg == "sock" for k in node.keywords):
                yield "run_app"


def product() -> list[Path]:
    files = [f for top in ("agent", "coordinator", "proto") for f in (ROOT / top).rglob("*.py")]
    return [f for f in files if WIRE not in f.parents and not f.stem.endswith(("_pb2", "_grpc"))]


def test_no_other_module_opens_any() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {what}"
        for file in product()
        for what in opened(file.read_text())
        if what not in ALLOWED.get(str(file.relative_to(ROOT)), ())
    }
    assert not found, "use tiermesh.wire, which makes connections from credentials"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import socket", "socket"),
        ("from http.client import HTTPConnection", "http"),
        ("server.add_insecure_port(x)", "add_insecure_port"),
        ("grpc.aio.insecure_channel(address)", "aio.insecure_channel"),
        ("grpc.insecure_channel(address)", "grpc.insecure_channel"),
        ("async def f():\n    await asyncio.open_connection(host, port)", "open_connection"),
        ("await_ = loop.create_server(x)", "create_server"),
        ("AsyncZeroconf()", "AsyncZeroconf"),
        ("web.run_app(app, port=1)", "run_app"),
    ],
)
def test_each_way_is_seen(source: str, what: str) -> None:
    assert list(opened(source)) == [what]


def test_what_has_a_similar_name_is_not_meant() -> None:
    for source in ("wire.server(credentials)", "web.run_app(app, sock=wire.listening_socket())"):
        assert list(opened(source)) == []


def test_only_the_wire_asks_what_kind_credentials_are() -> None:
    """A kind that is added must not have to be named elsewhere; where they are loaded, values are compared."""
    kinds = ("Loopback", "InsecureLan", "insecure_lan")
    edge = ROOT / "agent/config.py"
    found = [
        f"{file.relative_to(ROOT)}: {node_name}"
        for file in product()
        if file != edge
        for node in ast.walk(ast.parse(file.read_text()))
        for node_name in [getattr(node, "id", None) or getattr(node, "attr", None)]
        if node_name in kinds
    ]
    assert found == []
