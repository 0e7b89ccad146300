"""The identity survives restarts, belongs to one agent at a time, and is never half written."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from agent.errors import StateDamaged
from agent.identity import Identity, read_ports
from tiermesh.errors import StorageFull, TiermeshError


def test_it_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with Identity.load_or_create(tmp_path) as first:
        known = (first.device_id, first.name, first.control_port, first.data_port)
        assert first.control_port != first.data_port
    with Identity.load_or_create(tmp_path) as again:
        assert (again.device_id, again.name, again.control_port, again.data_port) == known
    assert read_ports(tmp_path) == ("127.0.0.1", *known[2:])


def test_what_is_given_replaces_what_was_kept(tmp_path: Path) -> None:
    with Identity.load_or_create(tmp_path, "cam-1", control_port=7001) as first:
        device = first.device_id
    with Identity.load_or_create(tmp_path, data_port=7002) as again:
        assert (again.device_id, again.name) == (device, "cam-1")
        assert (again.control_port, again.data_port) == (7001, 7002)


def test_worker_epochs_grow_over_restarts(tmp_path: Path) -> None:
    epochs: list[int] = []
    for _ in range(3):
        with Identity.load_or_create(tmp_path) as identity:
            epochs += [identity.next_epoch(), identity.next_epoch()]
    assert epochs == [1, 2, 3, 4, 5, 6]


def test_two_agents_cannot_share_a_folder(tmp_path: Path) -> None:
    with (
        Identity.load_or_create(tmp_path),
        pytest.raises(TiermeshError, match=f"its process is {os.getpid()}"),
    ):
        Identity.load_or_create(tmp_path)
    Identity.load_or_create(tmp_path).close()


def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    with Identity.load_or_create(tmp_path / "new"):
        assert stat.S_IMODE((tmp_path / "new" / "identity.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("text", ["", "{", "{}", '{"device_id": "a b"}'])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "identity.json").write_text(text)
    with pytest.raises(StateDamaged, match="Remove the file"):
        Identity.load_or_create(tmp_path)
    (tmp_path / "identity.json").unlink()
    Identity.load_or_create(tmp_path).close()


def test_a_full_disk_leaves_the_old_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Identity.load_or_create(tmp_path) as identity:
        before = (tmp_path / "identity.json").read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageFull, match="No space left"):
            identity.next_epoch()
    assert (tmp_path / "identity.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["identity.json", "lock"]


def test_a_disk_that_is_full_from_the_start_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        with pytest.raises(StorageFull, match="No space left"):
            Identity.load_or_create(tmp_path)
    Identity.load_or_create(tmp_path).close()


def test_a_folder_where_no_agent_ran_has_no_ports(tmp_path: Path) -> None:
    with pytest.raises(TiermeshError, match="no agent has run"):
        read_ports(tmp_path)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TiermeshError, match="cannot use the state folder"):
        Identity.load_or_create(tmp_path / "file" / "state")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.2", "127.0.0.2:7001"),
        ("0.0.0.0", "127.0.0.1:7001"),  # noqa: S104 - nothing is bound
        ("::", "[::1]:7001"),
        ("::1", "[::1]:7001"),
    ],
)
def test_who_asks_on_this_machine_is_told_where_the_agent_listens(tmp_path, host, address):
    with Identity.load_or_create(tmp_path, host=host, control_port=7001, data_port=7002):
        assert read_ports(tmp_path).control_address == address


def test_an_identity_of_before_hosts_were_kept_is_on_loopback(tmp_path):
    with Identity.load_or_create(tmp_path, control_port=7001, data_port=7002):
        pass
    file = tmp_path / "identity.json"
    kept = json.loads(file.read_text())
    del kept["host"]
    file.write_text(json.dumps(kept))
    assert read_ports(tmp_path).control_address == "127.0.0.1:7001"
