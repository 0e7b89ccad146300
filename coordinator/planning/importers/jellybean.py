"""JellyBean's optimizer inputs (arXiv 2205.04713) as a planning problem under JellyBean's rules.

The rules that the problem carries: latencies are the time a worker needs per request; only traffic from a lower to
a higher tier is charged, at `COMM_COST_SCALING_FACTOR` of the price listed; traffic to a lower tier is forbidden;
sources sit below the first tier, which they reach free of charge. That a worker serves one stage, and that one
variant per stage serves all requests, are options of planning (`exclusive`, `single_variant`).

Both forms are read: concrete workers, and worker types with `workers_numbers.csv`. A message size counts per request
of the stage that reads; a problem counts bytes per item written, so sizes are multiplied by the edge's ratio.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from coordinator.planning.importers import accuracy_profile
from coordinator.planning.importers.tables import (
    ImportedRow,
    Kind,
    damaged,
    read_csv,
    read_json,
    read_yaml,
)
from tiermesh.documents.problem import (
    Accuracy,
    Asks,
    BatchTime,
    ByVariants,
    Problem,
    ProblemDevice,
    ProblemEdge,
    ProblemLink,
    ProblemProfile,
    ProblemStage,
)
from tiermesh.errors import InvalidDocument

TABLES: Final[dict[str, dict[str, Kind]]] = {
    "workers_specs.csv": {"worker": "name", "price": "number"},
    "workers_numbers.csv": {"worker": "name", "number": "count"},
    "workers_workers_link.csv": {"from": "name", "to": "name", "price": "number"},
    "sources_workers_link.csv": {"source": "name", "worker": "name", "price": "number"},
    "logical_graph.csv": {"u": "name", "v": "name"},
    "throughput_normalization_ratios.csv": {"u": "name", "v": "name", "ratio": "number"},
    "throughput_normalization_ratios_per_variant.csv": {
        "u": "name", "v": "name", "u_variant": "name", "v_variant": "name", "ratio": "number"
    },
    "execution_profile.csv": {"stage": "name", "worker": "name", "variant": "name", "ms": "number"},
    "message_sizes.csv": {
        "u": "name", "v": "name", "u_variant": "name", "v_variant": "name", "kib": "number"
    },
    "input_injection_rates.csv": {"source": "name", "rate": "number"},
}  # fmt: skip
OPTIONAL: Final = {
    "workers_numbers.csv",
    "workers_workers_link.csv",
    "sources_workers_link.csv",
    "throughput_normalization_ratios.csv",
    "throughput_normalization_ratios_per_variant.csv",
}
PERCENTILE_FILES: Final = {f"execution_profile_p{n}.csv": f"p{n}" for n in (50, 75, 90, 95, 99)}
FILES: Final = (
    *TABLES,
    *PERCENTILE_FILES,
    "workers_partition.json",
    "accuracy_requirement.json",
    "nodes_accuracy_profiles.json",
    "nodes_accuracy_profiles.pkl",
    "config.yaml",
)
"""Every file of a folder that `problem_from` looks at."""

ANY: Final = "default"


@dataclass(frozen=True)
class _Folder:
    """A folder's tables and documents, each row checked for its form."""

    rows: Mapping[str, list[ImportedRow]]
    partition: list[list[str]] | None
    sink: str
    threshold: float
    accuracy: Accuracy
    link_scale: float
    latency_scale: float
    percentiles: Mapping[tuple[str, str, str], dict[str, float]]


def problem_from(files: Mapping[str, bytes], name: str = "jellybean") -> Problem:
    """Read a folder's files (by name) into a problem.

    Raises:
        InvalidDocument: a file is missing or damaged; it names file, line and column.
    """
    folder = _folder(files)
    tiers, tier_of = _tiers(folder)
    stages = _stages(folder)
    return Problem(
        name=name,
        tiers=tiers,
        devices=_devices(folder, tier_of),
        links=list(_links(folder, tiers, tier_of)),
        upward_only=True,
        stages=stages,
        edges=_edges(folder, {s.name: s for s in stages}),
        profiles=_profiles(folder, tier_of),
        accuracy=folder.accuracy,
        asks=Asks(accuracy_at_least=folder.threshold),
    )


def _folder(files: Mapping[str, bytes]) -> _Folder:
    rows = {file: list(_table(files, file)) for file in TABLES}
    asked = _document(files, "accuracy_requirement.json")
    settings: Any = read_yaml("config.yaml", files["config.yaml"]) if "config.yaml" in files else {}
    partition = _partition(files)
    return _Folder(
        rows=rows,
        partition=partition,
        sink=_field(asked, "sink", str),
        threshold=float(_field(asked, "threshold", (int, float))),
        accuracy=_accuracy(files),
        link_scale=_setting(settings, "COMM_COST_SCALING_FACTOR"),
        latency_scale=_setting(settings, "LATENCY_OVERESTIMATE_RATIO"),
        percentiles=_percentiles(files),
    )


def _table(files: Mapping[str, bytes], file: str) -> Iterator[ImportedRow]:
    if file in files:
        return read_csv(file, files[file], TABLES[file])
    if file in OPTIONAL:
        return iter(())
    raise _missing(file)


def _missing(file: str) -> InvalidDocument:
    return InvalidDocument(f"there is no {file}", fix="Copy it into the folder", path=file)


def _document(files: Mapping[str, bytes], file: str) -> Any:
    if file not in files:
        raise _missing(file)
    return read_json(file, files[file])


def _field(document: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    value = document.get(name) if isinstance(document, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if not isinstance(value, kind) or isinstance(value, bool):
        damaged("accuracy_requirement.json", 1, 1, f"it needs a `{name}`")
    return value  # pyright: ignore[reportUnknownVariableType]


def _setting(settings: Any, name: str) -> float:
    section = settings.get("INPUT") if isinstance(settings, dict) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    value = section.get(name, 1.0) if isinstance(section, dict) else 1.0  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6:
        damaged("config.yaml", 1, 1, f"`INPUT.{name}` is {value!r}, not a number of zero or more")
    return float(value)


def _partition(files: Mapping[str, bytes]) -> list[list[str]] | None:
    file = "workers_partition.json"
    if file not in files:
        return None
    value = read_json(file, files[file])
    if not isinstance(value, list) or not all(
        isinstance(tier, list) and all(isinstance(w, str) for w in tier)  # pyright: ignore[reportUnknownVariableType]
        for tier in value  # pyright: ignore[reportUnknownVariableType]
    ):
        damaged(file, 1, 1, "it is not a list of lists of workers")
    return value  # pyright: ignore[reportUnknownVariableType]


def _accuracy(files: Mapping[str, bytes]) -> Accuracy:
    for suffix, read in (
        ("json", accuracy_profile.from_json),
        ("pkl", accuracy_profile.from_pickle),
    ):
        file = f"nodes_accuracy_profiles.{suffix}"
        if file in files:
            return read(file, files[file])
    raise _missing("nodes_accuracy_profiles.json or .pkl")


def _percentiles(files: Mapping[str, bytes]) -> dict[tuple[str, str, str], dict[str, float]]:
    found: defaultdict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for file, name in PERCENTILE_FILES.items():
        if file in files:
            for row in read_csv(file, files[file], TABLES["execution_profile.csv"]):
                found[row["stage"], row["worker"], row["variant"]][name] = row["ms"]
    return found


def _tiers(folder: _Folder) -> tuple[list[str], dict[str, str]]:
    workers = [row["worker"] for row in folder.rows["workers_specs.csv"]]
    partition = folder.partition
    if partition is None:
        from coordinator.planning.tiers import detect

        prices = {(r["from"], r["to"]): r["price"] for r in folder.rows["workers_workers_link.csv"]}
        costs = {r["worker"]: r["price"] for r in folder.rows["workers_specs.csv"]}
        partition = detect(workers, prices, costs)
    tiers = [f"tier-{i}" for i in range(len(partition))]
    tier_of = {w: tier for tier, group in zip(tiers, partition, strict=True) for w in group}
    for row in folder.rows["workers_specs.csv"]:
        if row["worker"] not in tier_of:
            row.wrong("worker", f"`{row['worker']}` is in no tier of workers_partition.json")
    return tiers, tier_of


def _devices(folder: _Folder, tier_of: Mapping[str, str]) -> list[ProblemDevice]:
    numbers = {row["worker"]: row["number"] for row in folder.rows["workers_numbers.csv"]}
    devices: dict[str, ProblemDevice] = {}
    for row in folder.rows["workers_specs.csv"]:
        name = row["worker"]
        if numbers and name not in numbers:
            row.wrong("worker", f"`{name}` is not in workers_numbers.csv")
        if name in devices:
            row.wrong("worker", f"`{name}` is there twice")
        if count := numbers.get(name, 1):
            devices[name] = ProblemDevice(
                name=name, tier=tier_of[name], count=count, price_per_hour=row["price"]
            )
    return list(devices.values())


def _stages(folder: _Folder) -> list[ProblemStage]:
    rates = {row["source"]: row["rate"] for row in folder.rows["input_injection_rates.csv"]}
    variants: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for row in folder.rows["execution_profile.csv"]:
        variants[row["stage"]][row["variant"]] = None
    names = dict.fromkeys(
        row[side] for row in folder.rows["logical_graph.csv"] for side in ("u", "v")
    )
    readers = {row["v"] for row in folder.rows["logical_graph.csv"]}
    stages: list[ProblemStage] = []
    for row in folder.rows["logical_graph.csv"]:
        if row["u"] not in readers and row["u"] not in rates:
            row.wrong("u", f"`{row['u']}` has no input and no rate in input_injection_rates.csv")
    for row in folder.rows["execution_profile.csv"]:
        if row["stage"] not in names:
            row.wrong("stage", f"`{row['stage']}` is not in logical_graph.csv")
    for name in names:
        if name in readers:
            stages.append(ProblemStage(name=name, kind="model", variants=list(variants[name])))
        else:
            stages.append(
                ProblemStage(name=name, kind="source", rate_rps=rates[name], external=True)
            )
    return stages


def _links(folder: _Folder, tiers: list[str], tier_of: Mapping[str, str]) -> Iterator[ProblemLink]:
    level = {tier: i for i, tier in enumerate(tiers)}
    for row in folder.rows["workers_workers_link.csv"]:
        source, target = (_worker(row, side, tier_of) for side in ("from", "to"))
        if level[source] < level[target]:
            price = row["price"] * folder.link_scale
            yield ProblemLink(source=row["from"], target=row["to"], price_per_gib=price)
    for row in folder.rows["sources_workers_link.csv"]:
        if level[_worker(row, "worker", tier_of)] > 0:
            price = row["price"] * folder.link_scale
            yield ProblemLink(source=row["source"], target=row["worker"], price_per_gib=price)


def _worker(row: ImportedRow, column: str, tier_of: Mapping[str, str]) -> str:
    if row[column] not in tier_of:
        row.wrong(column, f"there is no worker `{row[column]}`")
    return tier_of[row[column]]


def _edges(folder: _Folder, stages: Mapping[str, ProblemStage]) -> list[ProblemEdge]:
    ratios = _by_edge(folder, "throughput_normalization_ratios.csv", stages)
    paired = _by_edge(folder, "throughput_normalization_ratios_per_variant.csv", stages)
    sizes = _by_edge(folder, "message_sizes.csv", stages)
    edges: list[ProblemEdge] = []
    for row in folder.rows["logical_graph.csv"]:
        edge = (row["u"], row["v"])
        ratio = ratios[edge][0]["ratio"] if ratios[edge] else 1.0
        pairs = [_pair(r, ratio=r["ratio"]) for r in paired[edge]]
        for size in sizes[edge]:
            pairs += _sized(size, ratio, paired[edge])
        edges.append(
            ProblemEdge(source=row["u"], target=row["v"], ratio=ratio, by_variants=_ordered(pairs))
        )
    return [_plain(edge) for edge in edges]


def _by_edge(
    folder: _Folder, file: str, stages: Mapping[str, ProblemStage]
) -> defaultdict[tuple[str, str], list[ImportedRow]]:
    known = {(row["u"], row["v"]) for row in folder.rows["logical_graph.csv"]}
    found: defaultdict[tuple[str, str], list[ImportedRow]] = defaultdict(list)
    for row in folder.rows[file]:
        if (row["u"], row["v"]) not in known:
            row.wrong("u", f"logical_graph.csv has no edge from `{row['u']}` to `{row['v']}`")
        for side in ("u", "v"):
            variant = row.values.get(f"{side}_variant", ANY)
            if variant != ANY and variant not in stages[row[side]].variants:
                row.wrong(f"{side}_variant", f"`{row[side]}` has no variant `{variant}`")
        found[row["u"], row["v"]].append(row)
    return found


def _pair(row: ImportedRow, ratio: float | None = None, size: float | None = None) -> ByVariants:
    return ByVariants(
        source_variant=None if row["u_variant"] == ANY else row["u_variant"],
        target_variant=None if row["v_variant"] == ANY else row["v_variant"],
        ratio=ratio,
        bytes_per_item=size,
    )


def _sized(size: ImportedRow, ratio: float, paired: list[ImportedRow]) -> list[ByVariants]:
    """A message size as bytes per item written, for each ratio that it may meet."""
    size_bytes = size["kib"] * 1024
    meets: list[ByVariants] = []
    for row in paired:
        merged = [_narrower(size[f"{s}_variant"], row[f"{s}_variant"]) for s in ("u", "v")]
        if all(merged):
            values = {**row.values, "u_variant": merged[0], "v_variant": merged[1]}
            narrowed = ImportedRow(row.file, row.line, values, row.columns)
            meets.append(_pair(narrowed, size=size_bytes * row["ratio"]))
    return [*meets, _pair(size, size=size_bytes * ratio)]


def _narrower(a: str, b: str) -> str | None:
    if b in {a, ANY}:
        return a
    return b if a == ANY else None


def _ordered(pairs: list[ByVariants]) -> list[ByVariants]:
    """Those that name more variants first, since the first match wins."""
    return sorted(pairs, key=lambda p: (p.source_variant is None) + (p.target_variant is None))


def _plain(edge: ProblemEdge) -> ProblemEdge:
    """The edge without a table, where nothing depends on the variants."""
    if any(p.source_variant or p.target_variant for p in edge.by_variants):
        return edge
    size = next((p.bytes_per_item for p in edge.by_variants if p.bytes_per_item is not None), 0.0)
    ratio = next((p.ratio for p in edge.by_variants if p.ratio is not None), edge.ratio)
    return ProblemEdge(source=edge.source, target=edge.target, ratio=ratio, bytes_per_item=size)


def _profiles(folder: _Folder, tier_of: Mapping[str, str]) -> list[ProblemProfile]:
    numbers = {row["worker"]: row["number"] for row in folder.rows["workers_numbers.csv"]}
    found: list[ProblemProfile] = []
    for row in folder.rows["execution_profile.csv"]:
        _worker(row, "worker", tier_of)
        if row["ms"] <= 0:
            row.wrong("ms", "a latency must be above zero")
        if not numbers.get(row["worker"], 1):
            continue
        known = folder.percentiles.get((row["stage"], row["worker"], row["variant"]), {})
        scale = folder.latency_scale / 1000
        times = {name: ms * scale for name, ms in known.items() if ms > 0}
        batch = BatchTime(batch_size=1, mean=row["ms"] * scale, percentiles=times)  # pyright: ignore[reportArgumentType]
        found.append(
            ProblemProfile(
                stage=row["stage"], variant=row["variant"], device=row["worker"], batches=[batch]
            )
        )
    return found
