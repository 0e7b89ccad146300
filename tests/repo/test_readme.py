"""README and the user guide are correct: each of their commands is run here, and the workflow is the one that ships.

A command that these tests do not know fails them. What a test changes of a command it says, with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from coordinator.cli import build_parser
from coordinator.cli.tui import with_default
from tests.agents import put_words, write_workflow
from tests.fetched import VARIANTS, fetched_ladders
from tiermesh.documents.profile import Point, Profile, Seconds
from tiermesh.documents.reading import encode_json

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
GUIDE = [
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("quickstart", "operating", "planner", "batching")
]
PHOTOS: Final = 20
WORKFLOW: Final = "variants/read-signs/read-signs.yaml"
PLAN: Final = f"coordinator plan {WORKFLOW} -o plan.json"
PROFILES: Final = "coordinator profiles ocr-recognise/v6s --on hub-1 -o profile.json"
SIMULATE: Final = "coordinator simulate plan.json --arrivals poisson"
PLAN_IN_A_SCRIPT: Final = f"{PLAN} --json | python -m json.tool"
APPLY: Final = "coordinator apply plan.json --wait"
MESH: Final = f"readme-{uuid.uuid4().hex[:6]}"

# Those that would run these tests again, or install what they are running with.
MADE = ["make demo", "make test"]
INSTALLED = [
    "pip install -e .",
    "pip install -e '.[onnx,vision]'",
    "pip install -e '.[coordinator,variants]'",
    "pip install -e '.[coordinator,tui]'",
]
# Run by tests/integration/demo.
DEMOS = ["coordinator demo --kill-worker any", "coordinator demo --hold"]
# Run by tests/tui, which need a terminal or a browser.
INTERFACES = ["coordinator --demo", "coordinator", "coordinator --serve"]
# Settings of the shell that the test has, with other values.
SHELL = ['export PATH="$PWD/.venv/bin:$PATH" TIERMESH_HOME="$PWD/.tiermesh"']
RENDER: Final = "python -m variants.data mesh/cam-1/data/signs"
AGENTS: Final = [
    "agent run --state mesh/cam-1 --name cam-1 --tier edge --price 0.01 --threads 1 --slowdown 6",
    "agent run --state mesh/hub-1 --name hub-1 --tier hub --price 0.02 --threads 1",
]
RESULTS: Final = "head -n 3 mesh/cam-1/data/out/text.jsonl"
AGAIN: Final = "coordinator apply plan.json --run evening --wait"
# Each with what the test adds, where it is not run as it stands. `--mesh` keeps it from the agents of others.
QUICKSTART: Final = {
    "coordinator devices --expect 2": f"--mesh {MESH}",
    "coordinator variants fetch": "",
    f"coordinator profile {WORKFLOW} --batch-sizes 1 --time-limit 5": f"--mesh {MESH}",
    PLAN: f"--mesh {MESH}",
    "coordinator explain plan.json": "",
    APPLY: f"--mesh {MESH}",
    "coordinator status": "",
    RESULTS: "",
}
# Of the pages about operating and planning, on the mesh of the quickstart.
OPERATING: Final = {
    "agent doctor": "",
    "agent status": "--state mesh/hub-1",
    "coordinator devices": f"--mesh {MESH}",
    # What the quickstart has measured is there already.
    f"coordinator profile {WORKFLOW}": f"--mesh {MESH} --time-limit 10 --batch-sizes 1",
    "coordinator profiles": "",
    PROFILES: "",
    # Measuring all of it takes ten minutes, and would write to the checkout.
    "coordinator variants measure": "--dataset signs --count 1",
    SIMULATE: "",
    "coordinator simulate plan.json --slower 25%": "",
    # Asked for less than the quickstart, a plan may need no hub.
    "coordinator simulate plan.json --fail hub-1": "--fail cam-1",
    "coordinator apply plan.json --dry-run": f"--mesh {MESH}",
    "coordinator wait": "",
    "coordinator explain --now": "--interval 2",
    "coordinator events": "",
    "coordinator artifacts": f"--mesh {MESH}",
    f"coordinator plan {WORKFLOW} --confidence 99%": f"--mesh {MESH}",
    f"coordinator plan {WORKFLOW} --no-margin": f"--mesh {MESH}",
    PLAN_IN_A_SCRIPT: f"--mesh {MESH}",
    f"{APPLY} --json": f"--mesh {MESH}",
    AGAIN: f"--mesh {MESH}",
}
# An agent with its own settings, started by the test that follows.
ALONE: Final = "agent run --tier hub --price 0.02"
# On a mesh of three agents that serve a workflow without models; measuring those takes a minute.
STAYING: Final = f"coordinator run {WORKFLOW}"
STAYING_AS_RUN: Final = f"coordinator run shout.yaml --mesh {MESH}-stays"
BESIDE_IT: Final = [
    "coordinator drain hub-1",
    "coordinator drain hub-1 --undo",
    "coordinator rollback",
    "coordinator events --kind replan-ended",
]
ON_FILES = [
    "coordinator import jellybean DIR -o problem.json",
    "coordinator plan problem.json --exclusive --single-variant",
    "coordinator batching --rate 40 --service profile.json --latency-slo 0.2",
]


def commands(page: str) -> list[str]:
    """Every line of a page's blocks of commands, without its comment."""
    blocks = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shell = [body for language, body in blocks if language in ("", "sh")]
    lines = (re.sub(r"\s+#.*", "", line).strip() for body in shell for line in body.splitlines())
    return [line for line in lines if line]


def workflow_shown() -> Any:
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(shown)


def test_every_command_is_known_here_and_none_is_left_over() -> None:
    of_readme = [*MADE, *DEMOS, INTERFACES[0], *INSTALLED, *SHELL, RENDER, *AGENTS, *QUICKSTART]
    assert sorted(commands(README)) == sorted(of_readme)
    of_guide = {command for page in GUIDE for command in commands(page)}
    later = {*INTERFACES, ALONE, *OPERATING, STAYING, *BESIDE_IT, *ON_FILES}
    assert of_guide - set(of_readme) == later - set(of_readme)


@pytest.mark.parametrize("page", [README, GUIDE[0]], ids=["README", "quickstart"])
def test_the_quickstart_is_run_in_its_order(page: str) -> None:
    assert [line for line in commands(page) if line in QUICKSTART] == list(QUICKSTART)


@pytest.mark.parametrize("run", [OPERATING, [STAYING, *BESIDE_IT]], ids=["operating", "staying"])
def test_the_guide_is_run_in_its_order(run: Iterable[str]) -> None:
    shown = [line for line in commands(GUIDE[1]) if line in run]
    assert shown == [line for line in run if line in shown]


@pytest.mark.parametrize("command", MADE)
def test_make_has_the_target(command: str) -> None:
    target = command.removeprefix("make ")
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", INSTALLED)
def test_pip_finds_the_extras(command: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (package,) = shlex.split(command)[3:]
    extras = re.fullmatch(r"\.(?:\[([\w,]+)\])?", package)
    assert extras is not None
    wanted = (extras[1] or "").split(",") if extras[1] else []
    assert set(wanted) <= project["optional-dependencies"].keys()


@pytest.mark.parametrize("command", DEMOS)
def test_the_demo_has_the_option_and_a_test_that_uses_it(command: str) -> None:
    words = shlex.split(command)[1:]
    assert build_parser().parse_args(words)
    tested = (ROOT / "tests" / "integration" / "demo" / "test_demo.py").read_text()
    assert all(f'"{word}"' in tested for word in words)


@pytest.mark.parametrize("command", INTERFACES)
def test_the_interface_has_the_option_and_a_test_that_uses_it(command: str) -> None:
    words = shlex.split(command)[1:]
    assert build_parser().parse_args(with_default(words)).run
    tested = "".join(path.read_text() for path in (ROOT / "tests" / "tui").glob("test_*.py"))
    assert all(f'"{word}"' in tested for word in words)


def test_the_workflow_is_the_one_that_ships() -> None:
    ships = (VARIANTS / "read-signs" / "read-signs.yaml").read_text()
    assert workflow_shown() == yaml.safe_load(ships)


def test_what_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


class Shell:
    """A folder with a copy of `variants`, where commands are typed; read-signs asks for what any machine can do."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        programs = folder / "bin"
        programs.mkdir()
        for name, words in (("coordinator", "-m coordinator.cli"), ("agent", "-m agent.cli")):
            self._program(programs / name, words)
        self._program(programs / "python", "")
        shutil.copytree(VARIANTS, folder / "variants")
        workflow = folder / "variants" / "read-signs" / "read-signs.yaml"
        asked = workflow.read_text().replace("rate: 4/s", "rate: 1/s")
        workflow.write_text(asked.replace("latency: {p95: 6 s}", "latency: {p95: 60 s}"))
        self._environment = {
            **os.environ,
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
            "TIERMESH_HOME": str(home),
        }

    def _program(self, path: Path, words: str) -> None:
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        path.chmod(0o755)

    def run(self, command: str) -> str:
        """What a command prints; it must succeed."""
        done = subprocess.run(
            ["/bin/bash", "-o", "pipefail", "-c", command],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start_agent(self, command: str) -> subprocess.Popen[str]:
        """Start an agent, and wait until it serves; it ends with its standard input, should the test be killed."""
        process = self.start(f"{command} --exit-with-stdin")
        assert process.stderr is not None
        assert any(" listening on " in line for line in process.stderr), "the agent does not start"
        return process

    def start(self, command: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            ["/bin/bash", "-c", f"exec {command}"],
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of its own, with what has been fetched already."""
    made = tmp_path / "home"
    made.mkdir()
    for name in ("artifacts", "builds"):
        (made / name).symlink_to(fetched_ladders().cache.home / name)
    return made


@pytest.fixture
def shell(tmp_path: Path, home: Path) -> Shell:
    return Shell(tmp_path, home)


@pytest.fixture
def agents(shell: Shell) -> Iterator[list[subprocess.Popen[str]]]:
    """The quickstart's agents, with photos to serve."""
    shell.run(RENDER)
    started: list[subprocess.Popen[str]] = []
    try:
        started += (shell.start_agent(f"{command} --mesh {MESH}") for command in AGENTS)
        yield started
    finally:
        for process in started:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)


def as_run(command: str, more: str) -> str:
    """A command with what the test adds to it, before its pipe."""
    first, *rest = command.split(" | ")
    return " | ".join([f"{first} {more}".strip(), *rest])


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.xdist_group("demo")
def test_the_commands_take_a_workflow_to_its_results(
    agents: list[subprocess.Popen[str]], shell: Shell
) -> None:
    run = {**QUICKSTART, **OPERATING}
    said = {command: shell.run(as_run(command, more)) for command, more in run.items()}
    assert [process.poll() for process in agents] == [None, None]

    assert {"cam-1", "hub-1"} <= set(said["coordinator devices --expect 2"].split())
    assert "hub" in said["coordinator devices"]
    assert "ocr-recognise/v6s" in said[PROFILES]
    assert "p95" in said[SIMULATE]
    measured = shell.run("coordinator batching --rate 1 --service profile.json --latency-slo 60")
    assert "latency within 60" in measured
    assert f"accepted {PHOTOS} = results {PHOTOS} + errors 0" in said[APPLY]
    assert "SLO met" in said["coordinator wait"]
    assert "read-signs" in said["coordinator status"]
    assert "rollout-started" in said["coordinator events"]
    plan = json.loads(said[PLAN_IN_A_SCRIPT])
    assert plan == json.loads((shell.folder / "plan.json").read_text())
    applied = json.loads(said[f"{APPLY} --json"])
    assert applied["outcome"] == "committed"
    assert (applied["ledger"]["accepted"], applied["ledger"]["results"]) == (PHOTOS, PHOTOS)
    assert f"accepted {PHOTOS} = results {PHOTOS} + errors 0" in said[AGAIN]
    shown = [json.loads(line)["payload"]["name"] for line in said[RESULTS].splitlines()]
    assert len(shown) == 3
    assert all(name.startswith("signs/") for name in shown)
    results = (shell.folder / "mesh/cam-1/data/out/text.jsonl").read_text().splitlines()
    assert len(results) == 2 * PHOTOS


@pytest.mark.slow
def test_an_agent_starts_without_a_name_or_a_folder(shell: Shell, home: Path) -> None:
    process = shell.start_agent(f"{ALONE} --mesh {MESH}-alone")
    end(process)
    assert process.returncode == 0
    assert (home / "agent" / "data").is_dir()


STAYING_WORKFLOW: Final = """
workflow: shout
slo: {rate: 20/s}
stages:
  files: {source: files, path: in, rate: 20/s, repeat: true, devices: [cam-1]}
  upper: {map: code, from: files, tiers: [hub]}
  out:   {sink: jsonl, path: out.jsonl, from: upper, devices: [cam-1]}
"""


@pytest.fixture
def three_agents(shell: Shell) -> Iterator[None]:
    """A camera with files to serve, and two hubs. The first is cheaper, by too little to move back for it unasked."""
    put_words(shell.folder / "cam-1" / "data" / "in", 5)
    write_workflow(shell.folder, STAYING_WORKFLOW)
    started: list[subprocess.Popen[str]] = []
    for name, tier, price in (
        ("cam-1", "edge", 0.01),
        ("hub-1", "hub", 0.02),
        ("hub-2", "hub", 0.021),
    ):
        options = f"--state {name} --name {name} --tier {tier} --price {price} --threads 1"
        started.append(shell.start_agent(f"agent run {options} --mesh {MESH}-stays"))
    yield
    for process in started:
        end(process)


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_coordinator_that_stays_carries_out_the_commands_beside_it(
    three_agents: None, shell: Shell
) -> None:
    staying = shell.start(STAYING_AS_RUN)
    assert staying.stdout is not None
    try:
        # The first plan may find too few devices ready; then another one follows.
        replaced = ("replan-ended" in line and "replaced" in line for line in staying.stdout)
        assert any(replaced), "it serves the workflow"
        said = [shell.run(command) for command in BESIDE_IT]
        assert staying.poll() is None
    finally:
        end(staying)
    assert staying.returncode == 0
    assert "from hub-1 to hub-2" in said[0]
    assert "hub-1 is planned for again" in said[1]
    assert "from hub-2 to hub-1" in said[2]
    assert "operator: replaced" in said[3]


@pytest.fixture
def files(tmp_path: Path) -> Shell:
    return Shell(tmp_path, tmp_path / "home")


def test_planning_works_on_another_systems_files(files: Shell) -> None:
    beside = [ROOT.parent, ROOT.parent.parent]
    data = [folder / "shared" / "data" / "jellybean-vqa-medium" for folder in beside]
    (folder, *_) = [path for path in data if path.is_dir()] or [None]
    if folder is None:
        pytest.skip("the published data (../shared/data/jellybean-vqa-medium) is not here")
    importing, planning, _ = ON_FILES
    files.run(importing.replace("DIR", shlex.quote(str(folder))))
    assert "USD/h" in files.run(planning)


def test_batching_works_on_a_profile(files: Shell) -> None:
    (files.folder / "profile.json").write_bytes(encode_json(a_profile()))
    answer = json.loads(files.run(f"{ON_FILES[2]} --json"))
    assert answer["chosen"]["latency_s"]["p95"] <= 0.2


def a_profile() -> Profile:
    """A device that takes 4 ms, and 6 ms for each item of a batch."""
    points = [
        Point(
            batch_size=batch,
            threads=1,
            samples=50,
            seconds=Seconds(
                **dict.fromkeys(Seconds.__struct_fields__, seconds := (4 + 6 * batch) / 1000)
            ),
            items_per_second=batch / seconds,
            interval=0.01,
        )
        for batch in (1, 2, 4, 8)
    ]
    return Profile(
        device="device",
        device_class="class",
        model="ocr-recognise",
        variant="v3",
        variant_digest="sha256:" + "0" * 64,
        runtime="onnx",
        agent_version="0.1.0",
        measured_at="2025-01-01T00:00:00Z",
        peak_memory_bytes=1_000_000,
        bytes_out_per_request=100.0,
        points=points,
    )
