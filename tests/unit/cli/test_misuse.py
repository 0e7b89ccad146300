"""What cannot be meant is refused with exit code 2, and names the option or field and the fix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.api.handlers.rollouts import check_ends
from coordinator.cli import main
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.errors import InvalidDocument

LADDERS = Path(__file__).parents[3] / "variants"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIERMESH_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("devices --timeout -1", "--timeout"),
        ("devices --timeout nan", "--timeout"),
        ("devices --expect 0", "--expect"),
        ("devices --mesh a/b", "--mesh"),
        ("status --interval 0", "--interval"),
        ("wait --for 0s", "--for"),
        ("wait --timeout soon", "--timeout"),
        ("events --limit -1", "--limit"),
        ("events --limit 1.5", "--limit"),
        ("profile --time-limit inf", "--time-limit"),
        ("apply p.json --run ../x", "--run"),
        ("simulate p.json --load nan", "--load"),
        ("simulate p.json --load 0", "--load"),
        ("batching --rate nan --service s.json --latency-slo 1", "--rate"),
        ("batching --rate 1 --service s.json --latency-slo inf", "--latency-slo"),
    ],
)
def test_an_option_out_of_range(command, option, capsys, home):
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    assert ended.value.code == 2
    assert f"argument {option}: " in capsys.readouterr().err
    assert not (home / "home").exists()


def failed(capsys, *arguments):
    code = main([*arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out)["error"]


def test_what_is_no_address(capsys):
    code, error = failed(capsys, "devices", "--no-browse", "--device", "hub")
    assert (code, error["what"]) == (2, "'hub' is not an address")
    assert "127.0.0.1:7070" in error["fix"]


def test_nobody_to_measure(capsys):
    code, error = failed(capsys, "profile", "--no-browse", "--variants", str(LADDERS))
    assert (code, error["what"]) == (1, "no device is ready to measure")
    assert error["fix"] == "Run: coordinator devices"


def test_fewer_devices_than_expected(capsys):
    assert main(["devices", "--no-browse", "--expect", "2", "--timeout", "0.1"]) == 1
    told = capsys.readouterr()
    assert "0 of the 2 devices expected" in told.err
    assert "agent run" in told.out


def test_a_workflow_that_is_not_there_or_not_text(capsys, home):
    from coordinator.workflows.yaml_files import read_workflow
    from tiermesh.errors import InvalidDocument

    with pytest.raises(InvalidDocument, match="No such file") as caught:
        read_workflow(home / "w.yaml")
    assert "Errno" not in str(caught.value)
    (home / "w.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidDocument, match="the workflow is not text"):
        read_workflow(home / "w.yaml")


def test_a_choice_names_what_is_allowed():
    from coordinator.workflows.yaml_files import parse_workflow
    from tiermesh.errors import InvalidDocument

    text = "workflow: w\nslo: {rate: 1/s}\nstages: {a: {source: camera, rate: 1/s}}"
    with pytest.raises(InvalidDocument, match="Allowed: files") as caught:
        parse_workflow(text)
    assert caught.value.fields["path"] == "$.stages.a.source"


def test_waiting_for_a_source_that_never_ends():
    def workflow(more):
        source = "a: {source: files, path: in, rate: 1/s" + more + "}"
        sink = "b: {sink: jsonl, path: out, from: a}"
        return parse_workflow("{workflow: w, stages: {" + source + ", " + sink + "}}")

    check_ends(workflow(""), "--wait", "")
    check_ends(workflow(", repeat: true, count: 9"), "--wait", "")
    with pytest.raises(InvalidDocument, match="--wait would never return"):
        check_ends(workflow(", repeat: true"), "--wait", "")
