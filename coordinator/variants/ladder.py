"""The ladder file: which variants a model has, and where each of their files comes from.

``variants/<model>/ladder.toml``. A file is either taken out of a public package (`registry`, `package`, `version`,
`path`) or built by a recipe from files of the same ladder (`recipe`, `inputs`). Either way its SHA-256 is named.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeAlias

from msgspec import Meta

from tiermesh import limits
from tiermesh.documents.reading import Document, convert
from tiermesh.documents.variant import Artifact
from tiermesh.documents.workflow import Name, Options
from tiermesh.errors import InvalidDocument

LADDER_FILE: Final = "ladder.toml"

Sha256: TypeAlias = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
FileName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
SizeBytes: TypeAlias = Annotated[int, Meta(ge=0, le=limits.ARTIFACT_BYTES)]


class Package(NamedTuple):
    """A package of a registry, in one version."""

    registry: Literal["pypi", "npm", "apt"]
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


class Packaged(Document, frozen=True, kw_only=True):
    """A file inside a package. `package_bytes` is how much the whole package weighs to download."""

    registry: Literal["pypi", "npm", "apt"]
    package: Annotated[str, Meta(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._/+-]*$")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:~+-]*$")]
    package_bytes: SizeBytes
    path: str
    sha256: Sha256
    size_bytes: SizeBytes

    @property
    def artifact(self) -> Artifact:
        """What it is, by content."""
        return Artifact(digest=f"sha256:{self.sha256}", size_bytes=self.size_bytes)

    @property
    def source(self) -> Package:
        """The package that holds it."""
        return Package(self.registry, self.package, self.version)


class Built(Document, frozen=True, kw_only=True):
    """A file that `recipe` (a module of `variants.recipes`) makes of `inputs`.

    `inputs` maps the recipe's names to ``variant/file`` of this ladder. With `exact` the bytes must be those of
    `sha256`; without it other bytes, as other library versions and processors make them, are taken when the variant
    passes its self-test.
    """

    recipe: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]*$")]
    inputs: dict[str, Annotated[str, Meta(pattern=r"^[^/]+/[^/]+$")]]
    options: Options = {}
    exact: bool = True
    sha256: Sha256
    size_bytes: SizeBytes

    @property
    def artifact(self) -> Artifact:
        """What it was when it was recorded, by content."""
        return Artifact(digest=f"sha256:{self.sha256}", size_bytes=self.size_bytes)


class Rung(NamedTuple):
    """One variant of the ladder, and the licence of its weights. `settings` are for its runtime.

    Which runtimes there are, and which settings they take, is known where they run: any name is accepted here.
    """

    runtime: str
    precision: str
    licence: str
    options: Options
    settings: Options
    note: str
    model_file: str | None
    files: dict[str, Packaged | Built]


class Ladder(NamedTuple):
    """All variants of a model. `stage` is the folder of their stage code."""

    model: str
    stage: Path
    rungs: dict[str, Rung]

    def file(self, reference: str) -> Packaged | Built:
        """The file that ``variant/file`` names; the reading of the ladder has checked that there is one."""
        variant, _, name = reference.partition("/")
        return self.rungs[variant].files[name]


class _RungFile(Document, frozen=True, kw_only=True):
    runtime: Name
    precision: str
    licence: str
    options: Options = {}
    settings: Options = {}
    note: str = ""
    files: dict[FileName, dict[str, Any]] = {}


class _LadderFile(Document, frozen=True, kw_only=True):
    """`model_file` is what the runtime of each variant loads; a variant without files has none."""

    model: Name
    stage: str
    model_file: FileName | None = None
    variants: Annotated[dict[Name, _RungFile], Meta(max_length=limits.VARIANTS_PER_STAGE)]


def read_ladder(folder: Path) -> Ladder:
    """Read the ladder of a model from its folder.

    Raises:
        InvalidDocument: not TOML, an unknown key, a file that is both or neither packaged and built, an input that no
            variant has, or files that are built from each other.
    """
    path = folder / LADDER_FILE
    what = f"the ladder {folder.name}/{LADDER_FILE}"
    try:
        plain = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidDocument(f"{what} cannot be read", why=str(error), path="$") from None
    outline = convert(plain, _LadderFile, what)
    rungs = {
        name: _rung(rung, outline.model_file, what, f"$.variants.{name}")
        for name, rung in outline.variants.items()
    }
    ladder = Ladder(outline.model, folder / outline.stage, rungs)
    _check(ladder, what)
    return ladder


def _rung(given: _RungFile, model_file: str | None, what: str, at: str) -> Rung:
    return Rung(
        runtime=given.runtime,
        precision=given.precision,
        licence=given.licence,
        options=given.options,
        settings=given.settings,
        note=given.note,
        model_file=model_file if given.files else None,
        files={name: _file(body, what, f"{at}.files.{name}") for name, body in given.files.items()},
    )


def _file(body: dict[str, Any], what: str, at: str) -> Packaged | Built:
    if "recipe" in body:
        return convert(body, Built, what, at)
    return convert(body, Packaged, what, at)


def _check(ladder: Ladder, what: str) -> None:
    for name, rung in ladder.rungs.items():
        at = f"$.variants.{name}.files"
        if rung.model_file is not None and rung.model_file not in rung.files:
            why = f"there is no `{rung.model_file}`, which the ladder names as `model_file`"
            raise InvalidDocument(f"{what} is wrong at `{at}`", why=why, path=at)
        for file in rung.files:
            _follow(ladder, f"{name}/{file}", (), what)


def _follow(ladder: Ladder, reference: str, above: tuple[str, ...], what: str) -> None:
    """Walk down what a file is built from, to where packages are."""
    variant, _, file = reference.partition("/")
    if variant not in ladder.rungs or file not in ladder.rungs[variant].files:
        at = f"$.variants.{above[-1].replace('/', '.files.')}.inputs" if above else "$.variants"
        why = f"no variant has the file `{reference}`"
        raise InvalidDocument(f"{what} is wrong at `{at}`", why=why, path=at, found=reference)
    if reference in above:
        why = " is built from ".join([*above[above.index(reference) :], reference])
        raise InvalidDocument(f"{what} has a cycle", why=why, path="$.variants")
    source = ladder.file(reference)
    if isinstance(source, Built):
        for below in source.inputs.values():
            _follow(ladder, below, (*above, reference), what)
