"""Who this device is: its id, name and ports, kept in the state folder while that exists."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Final, Literal, NamedTuple, Self

from msgspec import Meta
from msgspec.structs import replace

from agent.durable import write_whole
from agent.errors import StateDamaged
from agent.folder_lock import try_lock
from tiermesh import ids, limits, wire
from tiermesh.documents.reading import Document, decode_json, encode_json
from tiermesh.documents.workflow import Name
from tiermesh.errors import InvalidDocument, StorageFull, TiermeshError
from tiermesh.session import Tenure

_FILE: Final = "identity.json"
_LOCK: Final = "lock"
_LOOPBACK: Final = "127.0.0.1"

Port = Annotated[int, Meta(gt=0, lt=2**16)]


class Ports(NamedTuple):
    """Where the agent of a state folder listens; `host` is what it was last started with."""

    host: str
    control: int
    data: int

    @property
    def control_address(self) -> str:
        """Where a client on this machine reaches the agent."""
        anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound
        return wire.join_address(anywhere.get(self.host, self.host), self.control)


class _Kept(Document, kw_only=True, frozen=True):
    schema: Literal["tiermesh.identity/1"] = "tiermesh.identity/1"
    device_id: Annotated[str, Meta(pattern=ids.NAME_PATTERN)]
    name: Name
    host: str = _LOOPBACK
    control_port: Port
    data_port: Port
    worker_epoch: Annotated[int, Meta(ge=0)] = 0
    control_epoch: Annotated[int, Meta(ge=0)] = 0
    coordinator: str = ""


class Identity:
    """The identity of the agent that runs on a state folder; the folder is locked until `close`."""

    def __init__(self, file: Path, kept: _Kept, lock: IO[str]) -> None:
        self._file = file
        self._kept = kept
        self._lock = lock

    @classmethod
    def load_or_create(
        cls,
        state: Path,
        name: str | None = None,
        *,
        host: str = _LOOPBACK,
        control_port: int = 0,
        data_port: int = 0,
    ) -> Identity:
        """Take the folder and read its identity; the first time, make one.

        A name or port that is given replaces the one that was kept; 0 and None keep it. `host` is where the agent
        listens this time, kept for those who ask it.

        Raises:
            TiermeshError: another agent runs on this folder, or it cannot be written.
            StateDamaged: the identity file is there and cannot be read.
        """
        lock = _take(state)
        try:
            before = _read(state / _FILE) or _new()
            kept = replace(
                before,
                name=name or before.name,
                host=host,
                control_port=control_port or before.control_port,
                data_port=data_port or before.data_port,
            )
            identity = cls(state / _FILE, kept, lock)
            identity._keep(kept)
        except BaseException:
            lock.close()
            raise
        return identity

    @property
    def device_id(self) -> str:
        """The device's id, never changed."""
        return self._kept.device_id

    @property
    def name(self) -> str:
        """The device's name, for people."""
        return self._kept.name

    @property
    def control_port(self) -> int:
        """Where the agent listens."""
        return self._kept.control_port

    @property
    def data_port(self) -> int:
        """Where its worker takes frames."""
        return self._kept.data_port

    def next_epoch(self) -> int:
        """A number for the worker's next start, greater than all before; kept before it is used."""
        self._keep(replace(self._kept, worker_epoch=self._kept.worker_epoch + 1))
        return self._kept.worker_epoch

    @property
    def tenure(self) -> Tenure:
        """The coordinator that this device obeys."""
        return Tenure(self._kept.control_epoch, self._kept.coordinator)

    def keep_tenure(self, tenure: Tenure) -> None:
        """Obey this coordinator from now on, and after a restart, too."""
        kept = replace(self._kept, control_epoch=tenure.epoch, coordinator=tenure.holder)
        self._keep(kept)

    def close(self) -> None:
        """Let another agent have the folder."""
        self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def _keep(self, kept: _Kept) -> None:
        try:
            write_whole(self._file, encode_json(kept), mode=0o600)
        except OSError as error:
            raise StorageFull(
                f"cannot write the identity to {self._file}",
                why=error.strerror or str(error),
                fix="Free disk space, or make the folder writable",
            ) from None
        self._kept = kept


def read_ports(state: Path) -> Ports:
    """The ports of the agent of a state folder, whether it runs or not.

    Raises:
        TiermeshError: no agent has ever run on this folder.
        StateDamaged: the identity file cannot be read.
    """
    kept = _read(state / _FILE)
    if kept is None:
        raise TiermeshError(
            f"no agent has run with the state folder {state}",
            fix="Start one: agent run; or name its folder with --state",
        )
    return Ports(kept.host, kept.control_port, kept.data_port)


def _take(state: Path) -> IO[str]:
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (state / _LOCK).open("a+")
    except OSError as error:
        raise TiermeshError(
            f"cannot use the state folder {state}",
            why=error.strerror or str(error),
            fix="Choose a folder that this user may write: --state DIR",
        ) from None
    if not try_lock(lock):
        lock.seek(0)
        holder = lock.read(32).strip()
        lock.close()
        raise TiermeshError(
            f"another agent runs with the state folder {state}",
            why=f"its process is {holder}"
            if holder
            else "another process holds the lock of the folder",
            fix="Stop it, or give this one a folder of its own: --state DIR",
        ) from None
    try:
        # Not through the buffer: what does not fit into a full disk would be written again at close.
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), str(os.getpid()).encode())
    except OSError as error:
        lock.close()
        raise StorageFull(
            f"the state folder {state} cannot be written",
            why=error.strerror or str(error),
            fix="Free disk space, or choose another folder: --state DIR",
        ) from None
    return lock


def _read(file: Path) -> _Kept | None:
    try:
        return decode_json(file.read_bytes(), _Kept, str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateDamaged(f"cannot read {file}", why=error.strerror or str(error)) from None
    except InvalidDocument as error:
        raise StateDamaged(
            f"the identity of this device is damaged: {file}",
            why=str(error),
            fix="Remove the file: the device comes back as a new one, with the artifacts it has",
        ) from None


def _new() -> _Kept:
    control = data = wire.free_port()
    while data == control:
        data = wire.free_port()
    return _Kept(
        device_id=ids.new_device_id(), name=_host_name(), control_port=control, data_port=data
    )


def _host_name() -> str:
    """The host's name as far as a device's name may be equal to it."""
    short = platform.node().split(".")[0]
    return re.sub(r"[^A-Za-z0-9._-]", "-", short).lstrip("._-")[: limits.NAME_CHARS] or "device"
