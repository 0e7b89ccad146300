"""The documentation says what is so: pages are current, links and paths exist, commands parse, examples run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import build_parser as agent_parser
from coordinator.cli import build_parser as coordinator_parser
from coordinator.cli import completed

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
PAGES = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(DOCS.rglob("*.md")),
]
OF_THE_REPOSITORY = re.compile(r"^(?:agent|bench|coordinator|docs|proto|profiles|tests|variants)/")
PLACEHOLDER = re.compile(r"\b(?:NAME|MODEL|WORKFLOW|NNN)\b")
ONE_PAGE_LINES = 110
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_generated_pages_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, DOCS / "generate.py", tmp_path], check=True, timeout=60)
    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*") if p.is_file()}
    assert len(made) == 5
    committed = {path: (DOCS / path).read_text() for path in made}
    assert made == committed, "run `make docs`"


def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    """Strict: an unknown page, link or anchor fails."""
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    # With --quiet warnings would not count.
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", tmp_path / "site"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "quickstart.html").is_file()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    links = re.findall(
        r"\]\(([^)#\s]+)", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    )
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_that_are_named_exist(page: Path) -> None:
    code = re.findall(r"`([^`\n]+)`", page.read_text())
    paths = [
        text for text in code if OF_THE_REPOSITORY.match(text) and not PLACEHOLDER.search(text)
    ]
    assert [path for path in paths if not (ROOT / path.split()[0]).exists()] == []


def folders() -> Iterator[str]:
    """Every folder of agent/ and coordinator/ that has code."""
    for package in ("agent", "coordinator"):
        for file in sorted((ROOT / package).rglob("__init__.py")):
            yield f"{file.parent.relative_to(ROOT)}/"


@pytest.mark.parametrize("folder", folders())
def test_every_folder_is_named_in_the_architecture(folder: str) -> None:
    assert f"`{folder}`" in ARCHITECTURE


def test_the_architecture_is_one_page() -> None:
    assert len(ARCHITECTURE.splitlines()) <= ONE_PAGE_LINES


def test_the_diagram_names_what_is_there() -> None:
    paths = re.findall(r">((?:agent|coordinator)/[^<]*)<", (DOCS / "loop.svg").read_text())
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def shell_lines() -> list[tuple[str, str]]:
    """(page, command) for each command of our programs in the pages' blocks."""
    return [
        (named(page), first.strip())
        for page in PAGES
        for language, _, body in BLOCK.findall(page.read_text())
        if language in ("", "sh")
        for line in body.splitlines()
        for first in [re.sub(r"\s+#.*", "", line).split(" | ")[0]]
        if first.strip().split()[:1] in (["coordinator"], ["agent"])
    ]


@pytest.mark.parametrize(("page", "command"), sorted(set(shell_lines())))
def test_commands_parse(page: str, command: str) -> None:
    """An option that is not there ends the parser with an exit."""
    program, *words = shlex.split(command)
    if program == "agent":
        assert agent_parser().parse_args(words).run
    else:
        assert coordinator_parser().parse_args(completed(words)).run


def test_every_decision_states_context_decision_and_consequence() -> None:
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert [int(page.name[:3]) for page in pages] == list(range(1, len(pages) + 1))
    wanted = ["## Context", "## Decision", "## Consequence"]
    for page in pages:
        assert re.findall(r"^## .*", page.read_text(), re.MULTILINE) == wanted, page.name


def test_every_reason_to_replan_is_documented() -> None:
    from coordinator.replanning.reasons import ReplanReason

    told = (DOCS / "failures.md").read_text()
    assert [reason for reason in ReplanReason if f"| `{reason}` |" not in told] == []


@pytest.mark.slow
def test_the_page_about_ones_own_model_gives_a_ladder_that_can_be_fetched(tmp_path: Path) -> None:
    """Its files are written as shown, and its commands run until devices are needed."""
    pytest.importorskip("onnx", reason="building variants needs the extra `variants`")
    page = (DOCS / "own-model.md").read_text()
    (tmp_path / "variants").symlink_to(ROOT / "variants")
    commands: list[str] = []
    for language, title, body in BLOCK.findall(page):
        if title:
            (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / title).write_text(body)
        elif language == "sh":
            commands += body.splitlines()
    for name, words in (("coordinator", "-m coordinator.cli"), ("python", "")):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {words} "$@"\n')
        program.chmod(0o755)
    end = next(i for i, command in enumerate(commands) if command.startswith("coordinator profile"))
    environment = {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}",
        "TIERMESH_HOME": str(tmp_path / "home"),
    }
    script = "set -e\n" + "\n".join(commands[:end])
    done = subprocess.run(
        ["/bin/bash", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "brightness/fp32 model.onnx" in done.stdout
    assert re.search(r"brightness\s+fp32\s+fp32\s.*here", done.stdout), done.stdout
