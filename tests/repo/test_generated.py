"""What is generated and committed is what generating gives."""

import sys
from pathlib import Path

import pytest

from coordinator.api import schemas as api_schemas
from tiermesh import schemas

ROOT = Path(__file__).parents[2]


def test_the_stubs_are_those_of_the_proto_files(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    import subprocess

    script = ROOT / "proto" / "generate.py"
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    subprocess.run([sys.executable, script, tmp_path], check=True, env={"PATH": path}, timeout=60)
    made = {p.relative_to(tmp_path): p.read_text() for p in tmp_path.rglob("*_pb2*.py*")}
    committed = {
        p.relative_to(ROOT / "proto"): p.read_text()
        for p in (ROOT / "proto").rglob("*_pb2*.py*")
        if "__pycache__" not in p.parts
    }
    assert made == committed, "run `make proto`"


def test_the_json_schemas_are_those_of_the_documents(tmp_path: Path) -> None:
    schemas.write(tmp_path)
    made = {p.name: p.read_text() for p in tmp_path.iterdir()}
    committed = {p.name: p.read_text() for p in schemas.FOLDER.iterdir()}
    assert made == committed, "run `make schemas`"


def test_the_schema_of_the_api_is_that_of_its_documents(tmp_path: Path) -> None:
    api_schemas.write(tmp_path)
    made, committed = (
        (f / api_schemas.FILE_NAME).read_text() for f in (tmp_path, api_schemas.FOLDER)
    )
    assert made == committed, "run `make schemas`"
