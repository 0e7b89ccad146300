"""A runtime is one module: what it says of itself is enough to profile, serve and measure with it."""

from __future__ import annotations

import hashlib
import io
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from agent.model_host import runtimes
from agent.profiling.measuring import measure
from agent.profiling.messages import CannotRun, MeasureRequest, MeasureResult
from coordinator.variants import Ladders
from coordinator.variants.accuracy import MeasuredWith
from coordinator.variants.cache import Cache
from coordinator.variants.measuring import AccuracyRun
from tests.doubler import zipped
from tests.integration.serving.meshes import Mesh, until
from tiermesh.documents.variant import Bundle, Variant
from tiermesh.documents.workflow import parse
from tiermesh.errors import Unsupported

ROOT = Path(__file__).parents[3]

ABACUS = '''
"""A runtime that no file of the project names. Its model file holds a factor."""
from agent.model_host.runtimes import settings_of
from tiermesh.documents import fingerprint
from tiermesh.documents.reading import Document
from tiermesh.errors import Unsupported

class AbacusSettings(Document, frozen=True, kw_only=True):
    beads: int = 10

class Session:
    def __init__(self, factor):
        self.factor = factor
    def run(self, batch):
        return {"y": self.factor * batch["x"]}
    def close(self):
        pass

class Abacus:
    library = "libabacus"
    install = "pip install abacus"
    needs_model_file = True
    def describe(self):
        return fingerprint.Runtime(name="abacus", version="1.2")
    def start(self):
        pass
    def load(self, model):
        if settings_of(model, AbacusSettings).beads < 1:
            raise Unsupported("the abacus has no beads left")
        return Session(float(model.model.read_text()))

RUNTIME = Abacus()
'''
CODE = """
import numpy as np

class Twice:
    def __init__(self, files, options):
        pass
    def items(self, payload):
        return [{"x": np.float32([len(payload["image"])])}]
    def result(self, payload, outputs):
        return {"twice": float(outputs[0]["y"][0])}
    def samples(self):
        return [{"name": "a", "image": b"abc"}]
    def check(self, index, result):
        return None if result["twice"] == 6.0 else f"twice 3 is not {result['twice']}"
    def infer(self, batch):
        return {"y": 2 * batch["x"]}
"""
FACTOR = b"2"


@pytest.fixture(autouse=True)
def abacus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A distribution that names the runtime, installed for this process and those that it starts."""
    site = tmp_path / "site"
    info = site / "abacus-1.2.dist-info"
    info.mkdir(parents=True)
    (site / "abacus_runtime.py").write_text(ABACUS)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: abacus\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[tiermesh.runtimes]\nabacus = abacus_runtime\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}:{ROOT / 'proto'}")
    return site


def variant_of(runtime: str, put, **settings: Any) -> Variant:
    """A variant that doubles, by a model file or by its stage code alone; `put` keeps its artifacts."""
    files = {"factor": put(FACTOR)} if runtime == "abacus" else {}
    made = Variant(
        model="twice",
        name="v1",
        runtime=runtime,
        precision="fp32",
        model_file="factor" if files else None,
        files=files,
        bundle=Bundle(artifact=put(zipped({"twice.py": CODE})), entry="twice:Twice"),
    )
    return structs.replace(made, settings=settings) if settings else made


def ask_of(mesh: Mesh, variant: Variant) -> MeasureRequest:
    return MeasureRequest(
        variant=variant,
        store=str(mesh["hub"].root / "store"),
        batch_sizes=[1, 2],
        threads=[1],
        time_limit_seconds=20,
        interval=0.5,
        min_repeats=2,
        max_repeats=3,
    )


@pytest.mark.parametrize("runtime", ["abacus", "python"])
async def test_it_is_profiled(tmp_path: Path, runtime: str) -> None:
    mesh = Mesh(tmp_path, ["hub"])
    result = await measure(ask_of(mesh, variant_of(runtime, mesh["hub"].put)), lambda _: None)
    assert isinstance(result, MeasureResult), result
    assert [point.batch_size for point in result.points] == [1, 2]


async def test_its_own_reason_says_why_a_device_cannot_run_a_variant(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path, ["hub"])
    reasons: list[str] = []
    for settings in ({"beads": 0}, {"wires": 3}):
        variant = variant_of("abacus", mesh["hub"].put, **settings)
        result = await measure(ask_of(mesh, variant), lambda _: None)
        assert isinstance(result, CannotRun), result
        reasons.append(result.why)
    assert "the abacus has no beads left" in reasons[0]
    assert "wires" in reasons[1]
    assert "beads" in reasons[1], "what is allowed is said"


@pytest.mark.parametrize("runtime", ["abacus", "python"])
async def test_it_serves(tmp_path: Path, runtime: str) -> None:
    mesh = Mesh(tmp_path, ["hub"])
    mesh.offer("hub", 3)
    stages = {
        "files": ("source", [], ""),
        "twice": ("model", ["files"], ""),
        "out": ("sink", ["twice"], ""),
    }
    assigned = mesh.assign(stages, [(1.0, dict.fromkeys(stages, "hub"), {})])
    replicas = [
        structs.replace(r, variant=variant_of(runtime, mesh["hub"].put))
        if r.stage == "twice"
        else r
        for r in assigned["hub"].replicas
    ]
    try:
        await mesh.serve({"hub": structs.replace(assigned["hub"], replicas=replicas)})
        await until(lambda: len(mesh["hub"].results()) == 3, "three results")
        twice = {line["payload"]["twice"] for line in mesh["hub"].results()}
        assert twice == {2.0 * len("file 0")}
    finally:
        await mesh.close()


@dataclass(frozen=True)
class Case:
    payload: dict[str, Any]
    right: float

    def score(self, result: dict[str, Any]) -> float:
        return float(result["twice"] == self.right)


@dataclass(frozen=True)
class Lengths:
    name: str = "lengths"
    metric: str = "exact"
    model: str | None = None
    count: int = 3
    seed: int = 1

    def cases(self, count: int) -> list[Case]:
        # The last one is scored wrong, so that a constant is not taken for a measurement.
        right = [2.0 * length for length in range(count - 1)]
        return [Case({"image": b"x" * i}, r) for i, r in enumerate([*right, -1.0])]


@pytest.mark.parametrize(
    ("runtime", "library", "version"), [("abacus", "libabacus", "1.2"), ("python", "python", None)]
)
def test_its_accuracy_is_measured(
    tmp_path: Path, runtime: str, library: str, version: str | None
) -> None:
    ladders = Ladders.open(_variants_folder(tmp_path / "variants", runtime), tmp_path / "home")
    Cache(tmp_path / "home").add(io.BytesIO(FACTOR))
    workflow = parse(
        {
            "workflow": "flow",
            "stages": {
                "files": {"source": "files", "path": "in/", "rate": "1/s"},
                "twice": {"model": "twice", "from": "files"},
                "out": {"sink": "jsonl", "path": "out", "from": "twice"},
            },
        }
    )
    with_versions = MeasuredWith(date="2026-01-01", versions={})
    (found,) = AccuracyRun(ladders, workflow, with_versions).run([Lengths()]).workflows
    assert [(c.variants, c.accuracy) for c in found.combinations] == [
        ({"twice": "v1"}, pytest.approx(2 / 3, abs=1e-4))
    ]
    assert found.measured.versions.keys() == {library}
    assert version in (None, found.measured.versions[library])


def _variants_folder(path: Path, runtime: str) -> Path:
    """A ladder with one variant, of that runtime."""
    stage = path / "twice" / "stage"
    stage.mkdir(parents=True)
    (stage / "twice.py").write_text(CODE)
    (stage / "stage.toml").write_text('entry = "twice:Twice"\nrequires = ["numpy"]\n')
    head = 'model = "twice"\nstage = "stage"\n'
    body = f'[variants.v1]\nruntime = "{runtime}"\nprecision = "fp32"\nlicence = "MIT"\n'
    if runtime == "abacus":
        head += 'model_file = "factor"\n'
        body += (
            '[variants.v1.files.factor]\nregistry = "pypi"\npackage = "none"\nversion = "1"\n'
            f'package_bytes = 1\npath = "factor"\nsize_bytes = {len(FACTOR)}\n'
            f'sha256 = "{hashlib.sha256(FACTOR).hexdigest()}"\n'
        )
    (path / "twice" / "ladder.toml").write_text(head + body)
    return path


def test_a_device_says_what_it_has_and_why_it_lacks_others(abacus: Path) -> None:
    (abacus / "abacus_runtime.py").write_text("import no_such_library")
    found = {r.name: r for r in runtimes.describe()}
    assert found.keys() >= {"abacus", "onnx", "python"}
    assert "No module named 'no_such_library'" in str(found["abacus"].unavailable)
    with pytest.raises(Unsupported, match="abacus' does not load"):
        runtimes.runtime("abacus")


def test_a_runtime_without_a_version_leaves_profiles_as_they_are(made_fingerprint) -> None:
    """One that comes with the agent, or is not installed, is no reason to measure everything again."""
    onnx, *_ = (r for r in runtimes.describe() if r.name == "onnx")
    plain = structs.replace(made_fingerprint, runtimes=[onnx])
    more = structs.replace(made_fingerprint, runtimes=runtimes.describe())
    others = [r for r in more.runtimes if r.name not in ("onnx", "abacus")]
    assert others, "there are others"
    assert structs.replace(more, runtimes=[onnx, *others]).device_class == plain.device_class
    assert more.device_class != plain.device_class, "one with a version counts"


@pytest.fixture
def made_fingerprint():
    from agent.profiling import fingerprint

    return fingerprint.take(threads=1)


def test_the_command_that_installs_a_runtime_names_an_extra_that_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    built_in = [name for name in runtimes.names() if name != "abacus"]
    assert built_in == ["onnx", "python"]
    for name in built_in:
        command = runtimes._seam(name).install
        assert command.startswith("pip install ")
        if "tiermesh[" in command:
            assert command.partition("[")[2].rstrip("]'") in project["optional-dependencies"]


def test_no_other_file_names_a_runtime_or_its_library() -> None:
    """Adding one touches its module and its extra."""
    own = ROOT / "agent" / "model_host" / "runtimes"
    # Recipes quantize with it, whatever runs the result.
    exempt = {ROOT / "coordinator" / "variants" / "building.py"}
    words = {'"onnx"', "import onnxruntime", '"onnxruntime"'}
    named = [
        path.name
        for folder in ("agent", "coordinator", "proto")
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(own) and path not in exempt
        if any(word in path.read_text() for word in words)
    ]
    assert named == []
