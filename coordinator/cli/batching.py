"""`coordinator batching`: which batch size, timeout and memory meet a latency or a cost, and at what price."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from coordinator.cli import arguments
from coordinator.cli.output import CommandOutput
from tiermesh.errors import Infeasible, InvalidDocument, TiermeshError

if TYPE_CHECKING:
    from coordinator.cli import Commands
    from coordinator.cli.batching_answer import Hour
    from coordinator.planning.batching.choice import Ceiling
    from coordinator.planning.batching.documents import Service
    from coordinator.planning.batching.service import ServiceGrid

_EXAMPLES = """\
  # BATCH's question: the cheapest function for a 95th percentile of 9 s in one hour of its Twitter trace
  coordinator batching --arrivals maps.json#Twitter/1 --service service.json#TF-inceptionV4 \\
      --memory-mb 1280:3008:64 --batch 1:20 --timeout-s 0.01:0.49:0.01 --latency-slo 9

  # all hours of a trace, each configured from the hours before it
  coordinator batching --arrivals maps.json#Twitter --forecast --service service.json#TF-resnetV2 --cost-slo 3e-5

  # one device that runs one batch at a time, at 120 requests/s, from times measured there
  coordinator batching --rate 120 --service profile.json --servers 1 --latency-slo 0.05 --frontier

  # recorded timestamps (seconds, one a line), two devices, and a picture
  coordinator batching --trace arrivals.txt --service times.json --servers 2 --latency-slo 0.1 --plot choice.svg

exit codes: 0 found, 2 misused, 3 nothing holds what is asked (in some hour); the nearest that can be held is printed"""


def register(commands: Commands) -> None:
    """Add `batching`."""
    parser = commands.add(
        "batching",
        run,
        help="Choose batch size, timeout and memory for a latency or a cost",
        examples=_EXAMPLES,
    )
    arrivals = parser.add_argument_group("arrivals").add_mutually_exclusive_group(required=True)
    arrivals.add_argument("--arrivals", metavar="FILE[#KEY]", help="MAPs: one hour, or a trace")
    arrivals.add_argument(
        "--rate", metavar="RPS", type=arguments.finite, help="Poisson arrivals per second"
    )
    arrivals.add_argument("--trace", metavar="FILE", help="timestamps in seconds, one a line")
    _add_grid(parser.add_argument_group("settings to choose from"))
    ask = parser.add_argument_group("what must hold")
    ask.add_argument(
        "--percentile", type=arguments.finite, default=0.95, help="0.5, 0.75, 0.9, 0.95 or 0.99"
    )
    limit = ask.add_mutually_exclusive_group(required=True)
    limit.add_argument(
        "--latency-slo", metavar="SECONDS", type=arguments.finite, help="minimise cost within"
    )
    limit.add_argument(
        "--cost-slo", metavar="USD", type=arguments.finite, help="minimise latency within"
    )
    out = parser.add_argument_group("output")
    out.add_argument("--frontier", action="store_true", help="every setting that none beats")
    out.add_argument("--plot", metavar="FILE", help="a picture of the frontier: .png or .svg")
    _add_hours(parser.add_argument_group("hours"))


def _add_grid(group: Any) -> None:
    group.add_argument(
        "--service",
        metavar="FILE[#MODEL]",
        required=True,
        help="published polynomials, a profile, or a table of batch seconds",
    )
    group.add_argument(
        "--memory-mb",
        metavar="A:B:STEP",
        help="sizes of a function's memory (default: the published ones; 1024 for unlimited servers without any)",
    )
    group.add_argument("--batch", metavar="A:B", help="batch sizes (default: all that are known)")
    group.add_argument("--timeout-s", metavar="A:B:STEP", help="longest waits for a batch to fill")
    group.add_argument(
        "--servers",
        metavar="N|unlimited",
        help="batches at once (default: unlimited for times that depend on memory, else 1)",
    )
    group.add_argument(
        "--usd-per-hour",
        type=arguments.finite,
        help="price of a device (default: free; the least time wins)",
    )


def _add_hours(group: Any) -> None:
    group.add_argument(
        "--forecast", action="store_true", help="configure each hour from the hours before it"
    )
    group.add_argument(
        "--window-s",
        type=arguments.finite,
        default=3600.0,
        help="length of an hour of --trace --forecast",
    )


def run(args: argparse.Namespace, output: CommandOutput) -> int:
    """Answer; 3 where some hour is infeasible."""
    from coordinator.cli import batching_answer as answer
    from coordinator.cli.batching_tables import show

    began = perf_counter()
    plot = _plot_path(args.plot)
    ask = _ask(args)
    service = _service(args.service)
    servers = _servers(args.servers, service)
    question = answer.BatchingQuestion(*_grids(args, service, servers), servers, ask, args.frontier)
    hours, several = _hours(args, output)
    rows = answer.answer_hours(question, hours, forecast=args.forecast)
    output.document(answer.to_document(rows, question, perf_counter() - began, several=several))
    show(rows, question, output)
    if plot is not None:
        from coordinator.cli.batching_plot import draw

        draw(rows, question, plot)
    return Infeasible.exit_code if any(row.infeasible for row in rows) else 0


def _ask(args: argparse.Namespace) -> Ceiling:
    from coordinator.planning.batching.choice import Ceiling
    from coordinator.planning.batching.recursion import PERCENTILES

    if args.percentile not in PERCENTILES:
        raise _misused(f"--percentile {args.percentile:g} is none of 0.5, 0.75, 0.9, 0.95 and 0.99")
    of, limit = ("latency", args.latency_slo) if args.cost_slo is None else ("cost", args.cost_slo)
    if not 0 < limit < float("inf"):
        raise _misused(f"--{of}-slo {limit:g} is not a positive number")
    return Ceiling("latency" if of == "latency" else "cost", limit, args.percentile)


def _service(argument: str) -> Service:
    from coordinator.planning.batching.documents import read_service

    path, key = _file_and_key(argument)
    return read_service(_read(path), key, path.name)


def _servers(argument: str | None, service: Service) -> int | None:
    if argument is None:
        return 1 if service.polynomial is None else None
    if argument == "unlimited":
        return None
    if not argument.isdecimal() or not 1 <= int(argument) <= 10_000:
        raise _misused(f"--servers {argument} is neither a whole number from 1 on nor `unlimited`")
    return int(argument)


def _grids(args: argparse.Namespace, service: Service, servers: int | None) -> tuple[Any, Any]:
    """The grid to choose from, and the same with batch sizes up to BATCH's 20 where times are known."""
    from coordinator.planning.batching.choice import SettingsGrid
    from coordinator.planning.batching.published import BATCH_SIZE

    span = service.published.memory_mb
    memories = _values("--memory-mb", args.memory_mb, span)
    if not memories and servers is None:
        memories = (1024.0,)
    low, high = _batches(args.batch, service)
    price = _price(args.usd_per_hour, service, has_memory=bool(memories))
    times = service.on(memories, max(high, BATCH_SIZE), price)
    timeouts = _values("--timeout-s", args.timeout_s, service.published.timeout_s)
    timeouts = timeouts or _default_timeouts(times, high)
    if timeouts[0] < 0 or (memories and memories[0] <= 0):
        raise _misused("timeouts and memory sizes cannot be negative")
    return SettingsGrid(tuple(range(low, high + 1)), timeouts, times), SettingsGrid(
        (BATCH_SIZE,), timeouts, times
    )


def _default_timeouts(times: ServiceGrid, largest: int) -> tuple[float, ...]:
    """From none to the time of the largest batch, in eight steps."""
    longest = float(times.seconds[:, largest - 1].max())
    return tuple(round(longest * i / 8, 9) for i in range(9))


def _price(usd_per_hour: float | None, service: Service, *, has_memory: bool) -> Any:
    from coordinator.planning.batching.service import ServicePrice

    if usd_per_hour is not None:
        if not 0 <= usd_per_hour < float("inf"):
            raise _misused(f"--usd-per-hour {usd_per_hour:g} is not a price")
        return ServicePrice(usd_per_hour=usd_per_hour)
    return service.price if has_memory else ServicePrice()


def _batches(argument: str | None, service: Service) -> tuple[int, int]:
    from tiermesh import limits

    if argument is None:
        return 1, service.largest_batch
    parts = argument.split(":")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise _misused(f"--batch {argument} is not A:B with whole numbers")
    low, high = int(parts[0]), int(parts[-1])
    if not 1 <= low <= high <= limits.BATCH_SIZE:
        raise _misused(f"--batch {argument} does not lie between 1 and {limits.BATCH_SIZE}")
    if service.times is not None and high > service.times.largest_batch:
        raise _misused(
            f"--batch {argument}, but {service.name} was measured up to {service.times.largest_batch}"
        )
    return low, high


def _values(option: str, argument: str | None, default: Any) -> tuple[float, ...]:
    """The values of A, A:B or A:B:STEP, or of the published grid."""
    from coordinator.planning.batching.choice import steps_between

    if argument is None:
        return steps_between(default.first, default.last, default.step) if default else ()
    first, last, step = _span(option, argument)
    if (last - first) / step > 100_000:
        raise _misused(f"{option} {argument} has more than 100,000 values")
    return steps_between(first, last, step)


def _span(option: str, argument: str) -> tuple[float, float, float]:
    wrong = _misused(f"{option} {argument} is not A:B:STEP with A <= B and STEP > 0")
    try:
        parts = [float(part) for part in argument.split(":")]
    except ValueError:
        raise wrong from None
    first, last = parts[0], parts[1] if len(parts) > 1 else parts[0]
    step = parts[2] if len(parts) > 2 else max(last - first, 1.0)
    if len(parts) > 3 or not first <= last < float("inf") or not step > 0:
        raise wrong
    return first, last, step


def _hours(args: argparse.Namespace, output: CommandOutput) -> tuple[Sequence[Hour], bool]:
    """What to answer for, and whether the answer is a list of hours."""
    from coordinator.cli.batching_answer import hours_of_maps, hours_of_trace
    from coordinator.planning.batching.arrivals import MarkovianArrivals
    from coordinator.planning.batching.documents import read_arrivals, read_timestamps

    if args.trace is not None:
        path = Path(args.trace)
        raw = read_timestamps(_read(path), path.name)
        window = args.window_s if args.forecast else None
        return hours_of_trace(raw, window, output), args.forecast
    if args.rate is not None:
        maps = {"poisson": MarkovianArrivals.poisson(args.rate)}
    else:
        path, key = _file_and_key(args.arrivals)
        maps = read_arrivals(_read(path), key, path.name)
    if args.forecast and len(maps) == 1:
        raise _misused("--forecast needs the hours of a whole trace")
    return hours_of_maps(maps), len(maps) > 1


def _file_and_key(argument: str) -> tuple[Path, str]:
    name, _, key = argument.partition("#")
    return Path(name), key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TiermeshError(f"{path} cannot be read", why=error.strerror or str(error)) from None


def _plot_path(argument: str | None) -> Path | None:
    if argument is None:
        return None
    path = Path(argument)
    if path.suffix.lower() not in {".png", ".svg"}:
        raise _misused(f"--plot {argument} ends in neither .png nor .svg")
    return path


def _misused(what: str) -> InvalidDocument:
    return InvalidDocument(what, fix="See coordinator batching --help")
