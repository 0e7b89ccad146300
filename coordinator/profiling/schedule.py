"""What is still to be measured, in which order, and how long that will take. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from statistics import fmean

from coordinator.fleet import Desired, Fleet, unmeasured
from coordinator.fleet.instructions import Measure
from coordinator.planning.snapshot import AccuracyTable
from coordinator.progress import WorkCounts
from tiermesh.documents.profile import Profile
from tiermesh.documents.variant import Variant


def in_order(variants: Iterable[Variant], accuracy: AccuracyTable) -> list[Variant]:
    """The most accurate variant of each model, then the second of each, and so on.

    After the first round every stage can be served at the best accuracy, so that a plan can be made; and what is
    measured later may turn out to be beaten by what was measured before. Without measured accuracies, as they come.
    """
    by_model: dict[str, list[Variant]] = {}
    for variant in variants:
        by_model.setdefault(variant.model, []).append(variant)
    found = {model: _means(model, accuracy) for model in by_model}
    ranked = [
        sorted(of_model, key=lambda v: -found[v.model].get(v.name, 0.0))
        for of_model in by_model.values()
    ]
    return [v for v in chain.from_iterable(zip_longest(*ranked)) if v is not None]


def _means(model: str, accuracy: AccuracyTable) -> dict[str, float]:
    values: defaultdict[str, list[float]] = defaultdict(list)
    for chosen, value in accuracy:
        if model in chosen:
            values[chosen[model]].append(value)
    return {name: fmean(found) for name, found in values.items()}


def rivals(variants: Sequence[Variant], accuracy: AccuracyTable) -> dict[str, frozenset[str]]:
    """By a variant's digest, those of the same model that are at least as accurate, whatever the other models are."""
    tables: defaultdict[tuple[str, str], dict[frozenset[tuple[str, str]], float]]
    tables = defaultdict(dict)
    for chosen, value in accuracy:
        for model, name in chosen.items():
            others = frozenset(pair for pair in chosen.items() if pair[0] != model)
            tables[model, name][others] = value

    def beats(one: Variant, other: Variant) -> bool:
        if one.model != other.model or one.digest == other.digest:
            return False
        mine, theirs = (tables.get((v.model, v.name), {}) for v in (one, other))
        shared = mine.keys() & theirs.keys()
        return bool(shared) and all(mine[key] >= theirs[key] for key in shared)

    return {v.digest: frozenset(r.digest for r in variants if beats(r, v)) for v in variants}


def to_beat(
    of_class: Mapping[str, Profile],
    better: Iterable[str],
    batch_sizes: Sequence[int],
    threads: int,
) -> list[float]:
    """For each batch size, the seconds of the fastest of these variants on a class of devices; 0 where unknown."""
    points = [
        point
        for digest in better
        if (profile := of_class.get(digest)) is not None
        for point in profile.points
        if point.threads == threads
    ]
    return [
        min((p.seconds.mean for p in points if p.batch_size == size), default=0.0)
        for size in batch_sizes
    ]


@dataclass
class ProfilingOutlook:
    """How much is left of what is to be measured, where, and how long that is expected to take.

    Whoever measures says what has `ended`, before it is recorded.
    """

    desired: Desired
    clock: Callable[[], float]
    done: Counter[str] = field(default_factory=Counter[str])
    _measured: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    _failed: set[Measure] = field(default_factory=set[Measure])
    _seen: tuple[Fleet, int] | None = None
    _left: list[Measure] = field(default_factory=list[Measure])
    _seconds: dict[str, float | None] = field(default_factory=dict[str, "float | None"])
    _at: float = 0.0

    def ended(self, fleet: Fleet, measure: Measure, *, failed: bool) -> None:
        """A device has come to the end of a measurement."""
        self.done[measure.device] += 1
        if failed:
            self._failed.add(measure)
        else:
            self._measured.add((fleet.devices[measure.device].device_class, measure.variant_digest))

    def tally(self, fleet: Fleet, device: str) -> WorkCounts:
        """How far a device and all are."""
        self._look(fleet)
        done = self.done.total()
        here = sum(measure.device == device for measure in self._left)
        passed = self.clock() - self._at
        left, device_left = (
            None if seconds is None else max(seconds - passed, 0.0)
            for seconds in (self._seconds.get(""), self._seconds.get(device, 0.0))
        )
        return WorkCounts(
            done=done,
            total=done + len(self._left),
            left_s=left,
            device_done=self.done[device],
            device_total=self.done[device] + here,
            device_left_s=device_left,
        )

    def _look(self, fleet: Fleet) -> None:
        """Once after each measurement and change of the fleet: there may be many devices, and many reports."""
        now = (fleet, self.done.total())
        if self._seen is not None and self._seen[0] is fleet and self._seen[1] == now[1]:
            return
        self._seen, self._at = now, self.clock()
        self._left = [
            m
            for m in unmeasured(fleet, self.desired)
            if m not in self._failed
            and (fleet.devices[m.device].device_class, m.variant_digest) not in self._measured
        ]
        self._seconds = _seconds(self._left, fleet)


def _seconds(left: Sequence[Measure], fleet: Fleet) -> dict[str, float | None]:
    """What is left on each device, and under "" on the host that takes longest: hosts work side by side."""
    took = [p for of in fleet.profiles.values() for p in of.values() if p.took_seconds is not None]
    if not took:
        return dict.fromkeys(["", *(m.device for m in left)], None if left else 0.0)
    found: dict[str, float | None] = {}
    devices, hosts = defaultdict[str, float](float), defaultdict[str, float](float)
    for measure in left:
        expected = _expected(took, measure.variant_digest)
        devices[measure.device] += expected
        hosts[measure.host] += expected
    found.update(devices)
    found[""] = max(hosts.values(), default=0.0)
    return found


def _expected(took: Sequence[Profile], digest: str) -> float:
    """Another class's profile tells how long measuring a variant takes, never how fast a device is."""
    of_variant = [p for p in took if p.variant_digest == digest]
    return fmean(p.took_seconds or 0.0 for p in of_variant or took)
