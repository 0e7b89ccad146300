"""`coordinator variants fetch|measure|list`."""

from __future__ import annotations

import argparse
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from coordinator import config
from coordinator.cli import Commands, arguments
from coordinator.cli.mesh import VARIANTS, add_variants_option
from coordinator.cli.output import CommandOutput
from coordinator.cli.progress import bars
from coordinator.cli.text import clean, megabytes
from coordinator.progress import Progress as Step
from tiermesh.errors import InvalidDocument

if TYPE_CHECKING:
    from coordinator.variants import Fetched, FetchProgress, Ladders, Watch
    from coordinator.variants.accuracy import ModelAccuracy, WorkflowAccuracy


def register(commands: Commands) -> None:
    """Add `variants` and its actions."""
    parser = commands.add(
        "variants",
        _no_action,
        help="Fetch, measure and list the variants of the models",
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
        help="download, verify and build the variants of the ladders; files that are present are reused",
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
    measure.add_argument(
        "--time-limit",
        type=arguments.seconds,
        metavar="S",
        help="for each request of a variant; one that takes longer hangs (default: 120)",
    )
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
    add_variants_option(parser)
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="folder for artifacts (default: $TIERMESH_HOME)",
    )


def _no_action(args: argparse.Namespace, output: CommandOutput) -> int:
    del args, output
    raise AssertionError("the parser requires an action")


def _fetch(args: argparse.Namespace, output: CommandOutput) -> int:
    ladders = _open(args)
    fetched = _fetched(ladders, args.models or ladders.models, args.dropped, output)
    for one in fetched:
        size = megabytes(one.artifact.size_bytes)
        output.console.print(f"{one.model}/{one.variant} {one.file} [dim]{size}[/]")
        if one.note:
            output.console.print(f"  [yellow]{clean(one.note)}[/]")
    if not fetched:
        output.console.print("Everything is here.")
    output.document(
        {"fetched": [_described(one) for one in fetched], "home": str(ladders.cache.home)}
    )
    return 0


def _fetched(
    ladders: Ladders, models: Sequence[str], dropped: bool, output: CommandOutput
) -> list[Fetched]:
    from coordinator.variants import Fetcher

    with _watched(output, "fetch") as watch:
        return Fetcher(ladders, watch=watch).fetch(models, dropped=dropped)


def _described(fetched: Fetched) -> dict[str, Any]:
    plain = fetched._asdict()
    return {**plain, "artifact": fetched.artifact.digest, "size_bytes": fetched.artifact.size_bytes}


def _measure(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.variants import building
    from coordinator.variants.accuracy import MeasuredWith
    from coordinator.variants.measuring import AccuracyRun, chain, load_datasets
    from coordinator.variants.model_process import STEP_SECONDS
    from coordinator.workflows.yaml_files import read_workflow

    ladders = _open(args)
    datasets = _chosen(load_datasets(ladders.directory, args.workflow), args.dataset)
    workflow, _ = read_workflow(ladders.directory / args.workflow / f"{args.workflow}.yaml")
    _fetched(ladders, list(dict.fromkeys(chain(workflow))), True, output)
    today = datetime.now(UTC).date().isoformat()  # noqa: TID251 - a date for people
    measured = MeasuredWith(date=today, versions=building.tool_versions())
    with _watched(output, "measure") as watch:
        run = AccuracyRun(
            ladders,
            workflow,
            measured,
            count=args.count,
            watch=watch,
            step_seconds=args.time_limit or STEP_SECONDS,
        )
        found = run.run(datasets)
    stored = [] if args.dry_run or args.dataset else found.store(ladders)
    for model in found.models:
        _show_model(model, output)
    for whole in found.workflows:
        _show_workflow(whole, output)
    for path in stored:
        output.console.print(f"stored in {path}")
    for name, why in found.failed.items():
        output.progress.print(f"[red]{clean(name)} failed:[/] {clean(why)}", soft_wrap=True)
    output.document({**found._asdict(), "stored": [str(path) for path in stored]})
    return 1 if found.failed else 0


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


def _list(args: argparse.Namespace, output: CommandOutput) -> int:
    from coordinator.variants.accuracy import read_workflow_accuracies

    ladders = _open(args)
    rows = [row for model in ladders.models for row in _rows(ladders, model)]
    whole = [_summary(found) for found in read_workflow_accuracies(ladders.directory)]
    output.console.print(_table("Variants", _COLUMNS, [_cells(row) for row in rows]))
    for text in _remarks(rows, whole):
        output.console.print(text)
    output.document({"variants": rows, "end_to_end": whole})
    return 0


_COLUMNS: Final = ("model", "variant", "precision", "size", "state", "accuracy alone")


def _rows(ladders: Ladders, model: str) -> Iterator[dict[str, Any]]:
    ladder, dropped = ladders.ladder(model), ladders.dropped(model)
    measured = ladders.measured(model)
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
            "stale": found is not None and ladders.is_stale(model, name),
        }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    accuracy = "\n".join(f"{value:.3f} {name}" for name, value in row["accuracy"].items())
    size = megabytes(row["size_bytes"])
    return row["model"], row["variant"], row["precision"], size, row["state"], accuracy or "unknown"


def _summary(found: WorkflowAccuracy) -> dict[str, Any]:
    accuracies = [combined.accuracy for combined in found.combinations]
    return {
        "workflow": found.workflow,
        "metric": found.used.metric,
        "dataset": found.dataset,
        "count": found.used.count,
        "combinations": len(accuracies),
        "least": min(accuracies),
        "most": max(accuracies),
        "measured": found.measured.date,
    }


def _remarks(rows: Sequence[dict[str, Any]], whole: Sequence[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        name = f"{row['model']}/{row['variant']}"
        if row["dropped"]:
            yield f"[yellow]{name} is dropped:[/] {clean(row['dropped'])}"
        if row["stale"]:
            yield f"[yellow]{name} was measured with other weights or other stage code[/]"
    for one in whole:
        yield (
            f"{one['workflow']}: {one['metric']} on {one['dataset']}, end to end, is"
            f" {one['least']:.3f} to {one['most']:.3f} over {one['combinations']} combinations"
        )


def _show_model(model: ModelAccuracy, output: CommandOutput) -> None:
    names = list(model.datasets)
    rows = [
        (variant, *(f"{found.accuracy[name]:.4f}" for name in names), found.dropped or "")
        for variant, found in model.variants.items()
    ]
    output.console.print(_table(model.model, ("variant", *names, "dropped"), rows))


def _show_workflow(whole: WorkflowAccuracy, output: CommandOutput) -> None:
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

    return Ladders.open(args.variants or VARIANTS, args.home or config.home())


@contextmanager
def _watched(output: CommandOutput, doing: str) -> Generator[Watch]:
    """Progress of fetching or measuring as bars on standard error."""
    with bars(output) as report:

        def watch(progress: FetchProgress) -> None:
            done = progress.done / max(progress.total, 1)
            report(Step(doing, progress.task, done, _amount(progress)))

        yield watch


def _amount(progress: FetchProgress) -> str:
    if progress.unit == "bytes":
        return f"{megabytes(progress.done)} of {megabytes(progress.total)}"
    return f"{progress.done} of {progress.total}"
