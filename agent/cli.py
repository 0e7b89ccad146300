"""The `agent` command: run | status | doctor. Exit codes: 0 done, 1 failed, 2 misused."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent import config as configs
from agent.readable import readable
from tiermesh import PROTOCOL_VERSION, __version__, folders, histogram, logs, wire
from tiermesh.documents.reading import to_plain
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from tiermesh.v1 import telemetry_pb2

_NARROWEST: Final = 40
_FOLDER: Final = "agent"
_RUN_EXAMPLES = """examples:
  agent run --tier hub --price 0.05
  agent run --config /etc/tiermesh/agent.toml
  agent run --state /tmp/cam-1 --name cam-1 --threads 1 --slowdown 6   # pretends to be 6 x slower
"""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(prog="agent", description="The Tiermesh agent of a device.")
    parser.add_argument("--version", action="version", version=f"tiermesh {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_run(commands)
    status = _add(commands, "status", _status, "what this device's agent serves now")
    status.add_argument(
        "--address", metavar="HOST:PORT", help="instead of the state folder's agent"
    )
    status.add_argument(
        "--insecure-lan",
        dest="credentials",
        action="store_const",
        const=wire.INSECURE_LAN,
        default=wire.LOOPBACK,
        help="reach beyond this machine",
    )
    _add(commands, "doctor", _doctor, "what this device is, what it can run, and what it cannot")
    return parser


def _add(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.set_defaults(run=run)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    default = (Path(folders.home_text()) / _FOLDER).as_posix().replace("%", "%%")
    parser.add_argument("--state", metavar="DIR", help=f"the agent's folder (default: {default})")
    return parser


def _state_folder(args: argparse.Namespace) -> Path:
    return folders.expanded(args.state) if args.state else folders.home() / _FOLDER


def _add_run(commands: Any) -> None:
    run = _add(
        commands, "run", _run, "announce this device, measure it, and serve what it is assigned"
    )
    run.epilog = _RUN_EXAMPLES
    logs.add_arguments(run)
    run.add_argument("--config", type=Path, metavar="FILE", help="TOML with these settings as keys")
    settings = run.add_argument_group("settings")
    add = settings.add_argument
    add("--name", help="the device's name (default: the host's)")
    add("--mesh", help="which mesh to announce this device to (default: default)")
    add("--tier", help="edge, hub, datacenter, cloud, or the fleet's own (default: edge)")
    add("--price", dest="price_per_hour", type=float, metavar="USD", help="price per hour in use")
    add("--usable-share", type=float, help="share of its time that stages may take (default: 0.8)")
    add("--threads", type=int, help="threads of a batch (default: all cores)")
    add("--slowdown", type=float, help="pretend to be this many times slower (shown as emulated)")
    add(
        "--data",
        metavar="DIR",
        help="the folder that sources read and sinks write (default: STATE/data)",
    )
    add("--host", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=int, help="control port (default: a free one, kept)")
    add("--data-port", type=int, help="frames' port (default: a free one, kept)")
    add(
        "--insecure-lan",
        action="store_true",
        default=None,
        help="allow addresses beyond loopback, unencrypted",
    )
    add("--exit-with-stdin", action="store_true", help="stop when standard input closes")
    add("--no-announce", dest="announce", action="store_false", default=None, help="no zeroconf")
    add(
        "--no-batch-log",
        dest="batch_log",
        action="store_false",
        default=None,
        help="do not write down requests and batches in STATE/logs",
    )


def _run(args: argparse.Namespace) -> int:
    from agent import runner

    keys = configs.Config.__struct_fields__
    given = {k: v for k, v in vars(args).items() if k in keys and v is not None}
    config = configs.load(args.config, given, default_state=lambda: str(_state_folder(args)))
    logs.configure(args.log_level, args.log_format, default="info")
    asyncio.run(runner.run(config, exit_with_stdin=args.exit_with_stdin))
    return 0


def _status(args: argparse.Namespace) -> int:
    address = args.address or _own_address(_state_folder(args))
    # An address of the state folder is one that this machine's own agent was told to listen on.
    credentials = args.credentials if args.address else wire.INSECURE_LAN
    asyncio.run(_print_status(credentials, address, json=args.json))
    return 0


def _own_address(state: Path) -> str:
    from agent.identity import read_ports

    return read_ports(state).control_address


async def _print_status(credentials: wire.Credentials, address: str, *, json: bool) -> None:
    import grpc.aio
    from google.protobuf.json_format import MessageToDict

    from agent.control import look
    from tiermesh.v1 import device_pb2, device_pb2_grpc

    async with wire.channel(credentials, address, wire.ANY_AGENT) as channel:
        try:
            described = await device_pb2_grpc.DeviceStub(channel).Describe(
                device_pb2.DescribeRequest(protocol_version=PROTOCOL_VERSION), timeout=5
            )
            sample = await look(channel, described.device_id)
        except grpc.aio.AioRpcError as error:
            raise wire.raised_by(error, f"the agent at {address}") from None
    fields = MessageToDict(sample, preserving_proto_field_name=True)
    figures = _with_percentiles(fields.get("figures", {}), sample.figures)
    status = {
        "device": described.device_id,
        "name": described.name,
        "tier": described.tier,
        "generations": dict(described.generations),
        "worker": {**fields.get("worker", {}), "state": _state(sample.worker)},
        "replicas": figures.get("replicas", []),
        "sources": figures.get("sources", []),
        "sinks": figures.get("sinks", []),
        "events": fields.get("events", []),
    }
    _print(status, json=json)


def _with_percentiles(
    plain: dict[str, Any], figures: telemetry_pb2.WorkerFigures
) -> dict[str, Any]:
    """The worker's figures with percentiles in place of histograms."""
    for one, told in zip(plain.get("replicas", []), figures.replicas, strict=True):
        one["device_time_ms"] = histogram.read(told.device_time).percentiles_ms()
        one.pop("device_time", None)
    for one, told in zip(plain.get("sources", []), figures.sources, strict=True):
        one["latency_ms"] = histogram.read(told.latency).percentiles_ms()
        one.pop("latency", None)
    return plain


def _state(worker: telemetry_pb2.WorkerState) -> str:
    return worker.State.Name(worker.state).removeprefix("STATE_").lower()


def _doctor(args: argparse.Namespace) -> int:
    from agent.host_facts import host_facts
    from agent.profiling import fingerprint
    from agent.profiling.fingerprint import throttling

    found = {
        **to_plain(fingerprint.take(None, None)),
        "now": throttling.state(Path("/sys"), host_facts()),
    }
    _print(found, json=args.json)
    return 0


def _print(value: dict[str, Any], *, json: bool) -> None:
    if json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
        return
    width = max(shutil.get_terminal_size().columns, _NARROWEST)
    sys.stdout.write("".join(line + "\n" for line in readable(value, width)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        return args.run(args)
    except TiermeshError as error:
        if args.json:
            _print({"error": error.to_dict()}, json=True)
        sys.stderr.write(f"error: {error.what}\n")
        for label, text in (("why", error.why), ("fix", error.fix)):
            if text:
                sys.stderr.write(f"  {label}: {text}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read this has read enough. Standard output would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
