"""A process without HOME, whose user id has no name: help works, a folder that is named works, else one error."""

import os
import pwd

import pytest

from agent import cli as agent_cli
from agent import config as agent_config
from coordinator import cli as coordinator_cli
from coordinator import config
from tiermesh import folders
from tiermesh.errors import TiermeshError


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    def unknown(_uid):
        raise KeyError("getpwuid(): uid not found")

    for name in ("HOME", "TIERMESH_HOME", "LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["status", "--help"]])
def test_the_agents_help_is_printed(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        agent_cli.main(words)
    assert "usage: agent" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--help"], ["devices", "--help"], ["demo", "--help"]])
def test_the_coordinators_help_is_printed(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        coordinator_cli.main(words)
    assert "usage: coordinator" in capsys.readouterr().out


def test_the_agent_says_what_to_do(capsys):
    assert agent_cli.main(["status"]) == 1
    said = capsys.readouterr().err
    assert f"HOME is not set, and user id {os.getuid()} has no home folder here" in said
    assert "Name a folder with --state DIR" in said


def test_the_coordinator_says_what_to_do(capsys):
    assert coordinator_cli.main(["devices", "--no-browse"]) == 1
    assert "Name a folder with --state DIR" in capsys.readouterr().err


@pytest.mark.parametrize("path", ["~/agent", "~no-such-user/agent"])
def test_a_home_in_a_path_that_nobody_can_tell_is_an_error(path):
    with pytest.raises(TiermeshError, match="cannot tell which folder"):
        agent_config.load(None, {"state": path}, default_state=str).state_folder  # noqa: B018


def test_with_a_folder_the_agent_finds_its_own(tmp_path, capsys):
    assert agent_cli.main(["status", "--state", str(tmp_path)]) == 1
    assert "no agent has run with the state folder" in capsys.readouterr().err


def test_with_a_folder_the_coordinator_works(tmp_path):
    words = ["devices", "--no-browse", "--state", str(tmp_path / "state"), "--json"]
    assert coordinator_cli.main(words) in (0, 1)
    assert (tmp_path / "state").is_dir()
    assert config.home_beside(tmp_path) == tmp_path


def test_a_user_without_a_name_is_told_by_number():
    assert folders.user_name() == f"uid {os.getuid()}"


def test_the_variable_decides(monkeypatch, tmp_path):
    monkeypatch.setenv("TIERMESH_HOME", str(tmp_path))
    assert folders.home() == tmp_path
    assert folders.home_text() == str(tmp_path)
