"""The tree is tidy: one name for one thing, files of one subject, and a docstring for each public thing."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = ("agent", "coordinator", "proto/tiermesh")
MOST_LINES: Final = 600


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "_pb2" not in path.name:
                yield path, ast.parse(path.read_text())


def test_a_public_class_name_stands_for_one_class():
    found: defaultdict[str, list[str]] = defaultdict(list)
    for path, tree in modules():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_a_file_has_a_length_that_one_subject_needs():
    long = {
        str(path.relative_to(ROOT)): lines
        for path, _ in modules()
        if (lines := len(path.read_text().splitlines())) > MOST_LINES
    }
    assert long == {}


def test_each_public_module_class_and_function_has_a_docstring():
    bare = [
        f"{path.relative_to(ROOT)}:{getattr(node, 'name', '')}"
        for path, tree in modules()
        for node in (tree, *tree.body)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not getattr(node, "name", "").startswith("_")
        and not ast.get_docstring(node)
        and (not isinstance(node, ast.Module) or tree.body)
    ]
    assert bare == []
