"""How an agent is set up: a TOML file, the command line over it, and defaults for the rest."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

from msgspec import Meta

from tiermesh import folders
from tiermesh.documents.reading import Document, convert
from tiermesh.documents.workflow import Name
from tiermesh.errors import InvalidDocument
from tiermesh.ids import DEFAULT_MESH
from tiermesh.wire import INSECURE_LAN, LOOPBACK, AnyCredentials

_MOST_PRICE: Final = 1e9
_MOST_SLOWDOWN: Final = 1e6


class Config(Document, frozen=True, kw_only=True):
    """The settings of `agent run`; a TOML file has the same keys.

    `mesh` is which of the meshes that share a network this device announces itself to.
    `batch_log` lets the worker write down requests and batches in `state`/logs.
    `state` is the agent's own folder, `data` the folder its sources may read and its sinks may write.
    `threads` is how many threads a batch may use (None: all cores). `slowdown` makes this device pretend to be
    that many times slower. Ports: 0 takes a free one at the first start and keeps it.
    """

    state: str
    data: str | None = None
    name: Name | None = None
    mesh: Name = DEFAULT_MESH
    tier: Name = "edge"
    price_per_hour: Annotated[float, Meta(ge=0, le=_MOST_PRICE)] = 0.0
    usable_share: Annotated[float, Meta(gt=0, le=1)] = 0.8
    threads: Annotated[int, Meta(ge=1)] | None = None
    slowdown: Annotated[float, Meta(ge=1, le=_MOST_SLOWDOWN)] = 1.0
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, lt=65536)] = 0
    data_port: Annotated[int, Meta(ge=0, lt=65536)] = 0
    insecure_lan: bool = False
    announce: bool = True
    batch_log: bool = True

    @property
    def credentials(self) -> AnyCredentials:
        """What the ports and channels of this device are made from."""
        return INSECURE_LAN if self.insecure_lan else LOOPBACK

    @property
    def state_folder(self) -> Path:
        """Where identity, artifacts and assignments are kept."""
        return folders.expanded(self.state)

    @property
    def data_folder(self) -> Path:
        """What sources and sinks are confined to."""
        return folders.expanded(self.data) if self.data else self.state_folder / "data"


def load(file: Path | None, given: dict[str, Any], *, default_state: Callable[[], str]) -> Config:
    """The file's settings with `given` over them; `default_state` is asked where neither names the state folder.

    Raises:
        InvalidDocument: the file cannot be read, a key is unknown, or a value is out of range.
    """
    settings = {**(_read(file) if file is not None else {}), **given}
    if "state" not in settings:
        settings["state"] = default_state()
    return convert(settings, Config, f"the configuration{f' {file}' if file else ''}")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise InvalidDocument(
            f"cannot read the configuration {file}", why=error.strerror or str(error)
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidDocument(f"the configuration {file} is not TOML", why=str(error)) from None
