"""`coordinator variants fetch|measure|list`."""

from __future__ import annotations

import argparse
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator.cli import Commands
from coordinator.cli.output import Output
from tiermesh.documents.workflow import Workflow, parse
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.variants import Fetched, Ladders, Progress
    from coordinator.variants.accuracy import ModelAccuracy, WorkflowAccuracy

HOME_VARIABLE: Final = "TIERMESH_HOME"
DEFAULT_HOME: Final = "~/.local/state/tiermesh"


def register(commands: Commands) -> None:
    """Add `variants` and its actions."""
    parser = commands.add(
        "variants",
        _no_action,
        help="fetch, measure and list the variants of the models",
        examples="  coordinator variants list\n  coordinator variants fetch ocr-detect",
    )
    actions = Commands(parser)
    _add_fetch(actions)
    _add_measure(actions)
    _add_list(actions)


def _add_fetch(actions: Commands) -> None:
    fetch = actions.add(
        "fetch",
        _fetch,
        help="download, verify and build what the ladders name; what is here already is kept",
        examples="  coordinator variants fetch\n  coordinator variants fetch ocr-detect --json",
    )
    fetch.add_argument("models", nargs="*", metavar="MODEL", help="only these; default: all")
    fetch.add_argument("--dropped", action="store_true", help="variants that were dropped, too")
    _add_places(fetch)


def _add_measure(actions: Commands) -> None:
    measure = actions.add(
        "measure",
        _measure,
        help="measure how right each variant is, and each combination end to end; store it",
        examples=(
            "  coordinator variants measure --workflow read-signs\n"
            "  coordinator variants measure --dataset signs --count 20 --dry-run"
        ),
    )
    measure.add_argument("--workflow", default="read-signs", help="default: read-signs")
    measure.add_argument(
        "--dataset", action="append", metavar="NAME", help="only these (repeat); implies --dry-run"
    )
    measure.add_argument("--count", type=int, metavar="N", help="cases of each data set")
    measure.add_argument("--dry-run", action="store_true", help="store nothing")
    _add_places(measure)


def _add_list(actions: Commands) -> None:
    listing = actions.add(
        "list",
        _list,
        help="list the variants: whether they are here, how large, how right, or why dropped",
        examples="  coordinator variants list\n  coordinator variants list --json",
    )
    _add_places(listing)


def _add_places(parser: argparse.ArgumentParser) -> None:
    home = os.environ.get(HOME_VARIABLE, DEFAULT_HOME)
    parser.add_argument(
        "--variants", type=Path, default=Path("variants"), metavar="DIR", help="default: variants"
    )
    parser.add_argument(
        "--home",
        type=Path,
        default=Path(home).expanduser(),
        metavar="DIR",
        help=f"the cache; default: ${HOME_VARIABLE}, or {DEFAULT_HOME}",
    )


def _no_action(args: argparse.Namespace, output: Output) -> int:
    del args, output
    raise AssertionError("the parser requires an action")


def _fetch(args: argparse.Namespace, output: Output) -> int:
    ladders = _open(args)
    fetched = _fetched(ladders, args.models or ladders.models, args.dropped, output)
    for one in fetched:
        output.console.print(
            f"{one.model}/{one.variant} {one.file} [dim]{_megabytes(one.artifact.size_bytes)}[/]"
            + (f"\n  [yellow]{one.note}[/]" if one.note else "")
        )
    if not fetched:
        output.console.print("Everything is here.")
    output.document({"fetched": [_described(one) for one in fetched], "home": str(args.home)})
    return 0


def _fetched(
    ladders: Ladders, models: Sequence[str], dropped: bool, output: Output
) -> list[Fetched]:
    from coordinator.variants import Fetcher

    with _bars(output) as watch:
        return Fetcher(ladders, watch=watch).fetch(models, dropped=dropped)


def _described(fetched: Fetched) -> dict[str, Any]:
    plain = fetched._asdict()
    return {**plain, "artifact": fetched.artifact.digest, "size_bytes": fetched.artifact.size_bytes}


def _measure(args: argparse.Namespace, output: Output) -> int:
    from coordinator.variants import building
    from coordinator.variants.accuracy import Measured
    from coordinator.variants.measuring import Measuring, chain, load_datasets

    ladders = _open(args)
    workflow = _read_workflow(ladders.directory, args.workflow)
    datasets = _chosen(load_datasets(ladders.directory, args.workflow), args.dataset)
    _fetched(ladders, list(dict.fromkeys(chain(workflow))), True, output)
    today = datetime.now(UTC).date().isoformat()  # noqa: TID251 - a date for people
    measured = Measured(date=today, versions=building.tool_versions())
    with _bars(output) as watch:
        run = Measuring(ladders, workflow, measured, count=args.count, watch=watch)
        found = run.run(datasets)
    stored = [] if args.dry_run or args.dataset else found.store(ladders)
    for model in found.models:
        _show_model(model, output)
    for whole in found.workflows:
        _show_workflow(whole, output)
    for path in stored:
        output.console.print(f"stored in {path}")
    output.document({**found._asdict(), "stored": [str(path) for path in stored]})
    return 0


def _chosen(datasets: Sequence[Any], names: Sequence[str] | None) -> list[Any]:
    known = sorted({dataset.name for dataset in datasets})
    for name in names or ():
        if name not in known:
            raise InvalidDocument(
                f"there is no data set `{name}`",
                fix=f"Allowed: {', '.join(known)}",
                path="--dataset",
                found=name,
                allowed=known,
            )
    return [dataset for dataset in datasets if not names or dataset.name in names]


def _read_workflow(directory: Path, name: str) -> Workflow:
    import yaml

    path = directory / name / f"{name}.yaml"
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError) as error:
        raise InvalidDocument(
            f"the workflow {name} cannot be read", why=str(error), path="$"
        ) from None


def _list(args: argparse.Namespace, output: Output) -> int:
    ladders = _open(args)
    rows = [row for model in ladders.models for row in _rows(ladders, model)]
    output.console.print(_table("Variants", _COLUMNS, [_cells(row) for row in rows]))
    output.document({"variants": rows})
    return 0


_COLUMNS: Final = ("model", "variant", "precision", "MB", "state", "accuracy alone")


def _rows(ladders: Ladders, model: str) -> Iterator[dict[str, Any]]:
    ladder, dropped, measured = (
        ladders.ladder(model),
        ladders.dropped(model),
        ladders.measured(model),
    )
    for name, rung in ladder.rungs.items():
        found = measured.variants.get(name) if measured is not None else None
        fetched = ladders.is_fetched(model, name)
        yield {
            "model": model,
            "variant": name,
            "runtime": rung.runtime,
            "precision": rung.precision,
            "licence": rung.licence,
            "note": rung.note,
            "size_bytes": sum(file.size_bytes for file in rung.files.values()),
            "state": "dropped" if name in dropped else "here" if fetched else "not fetched",
            "dropped": dropped.get(name),
            "accuracy": dict(found.accuracy) if found is not None else {},
        }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    accuracy = ", ".join(f"{name} {value:.3f}" for name, value in row["accuracy"].items())
    state = f"dropped: {row['dropped']}" if row["dropped"] else row["state"]
    megabytes = f"{row['size_bytes'] / 1e6:.1f}"
    return row["model"], row["variant"], row["precision"], megabytes, state, accuracy or "unknown"


def _show_model(model: ModelAccuracy, output: Output) -> None:
    names = list(model.datasets)
    rows = [
        (variant, *(f"{found.accuracy[name]:.4f}" for name in names), found.dropped or "")
        for variant, found in model.variants.items()
    ]
    output.console.print(_table(model.model, ("variant", *names, "dropped"), rows))


def _show_workflow(whole: WorkflowAccuracy, output: Output) -> None:
    models = list(whole.stage_code)
    ranked = sorted(whole.combinations, key=lambda c: -c.accuracy)
    rows = [
        (*(c.variants[m] for m in models), f"{c.accuracy:.4f}", f"± {c.interval:.4f}")
        for c in ranked
    ]
    title = f"{whole.workflow}: {whole.used.metric} on {whole.dataset}"
    output.console.print(_table(title, (*models, "accuracy", "95 %"), rows))


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Any:
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    return table


def _open(args: argparse.Namespace) -> Ladders:
    from coordinator.variants import Ladders

    return Ladders.open(args.variants, args.home)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


@contextmanager
def _bars(output: Output) -> Generator[Any]:
    """A bar for each piece of work, on standard error; gone when it is done."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=output.progress, transient=True) as bars:
        tasks: dict[str, Any] = {}
        lock = threading.Lock()

        def watch(progress: Progress) -> None:
            with lock:
                if progress.task not in tasks:
                    tasks[progress.task] = bars.add_task(progress.task, amount="")
            bars.update(
                tasks[progress.task],
                completed=progress.done,
                total=progress.total,
                amount=_amount(progress),
                visible=progress.done < progress.total,
            )

        yield watch


def _amount(progress: Progress) -> str:
    if progress.unit == "bytes":
        return f"{_megabytes(progress.done)} of {_megabytes(progress.total)}"
    return f"{progress.done} of {progress.total}"
