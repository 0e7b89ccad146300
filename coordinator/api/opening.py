"""Opening a mesh in this process, for a client that finds no running coordinator, and for that coordinator itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator import config
from tiermesh import wire
from tiermesh.ids import DEFAULT_MESH

if TYPE_CHECKING:
    from coordinator.api.service import CoordinatorService
    from coordinator.variants import Ladders


@dataclass(frozen=True, kw_only=True)
class MeshOptions:
    """Which mesh. `state` is the coordinator's folder, `variants` that of the ladders; None: nothing is planned.

    `fleet` is a fleet file, `name` the mesh whose announcements are heard. With `read_only`, another process may
    coordinate it meanwhile.
    """

    state: Path = field(default_factory=config.state_dir)
    home: Path = field(default_factory=config.home)
    variants: Path | None = None
    fleet: Path | None = None
    name: str = DEFAULT_MESH
    credentials: wire.Credentials = wire.LOOPBACK
    read_only: bool = False


@contextlib.asynccontextmanager
async def opened(options: MeshOptions) -> AsyncGenerator[CoordinatorService]:
    """The service on a mesh that this process opens; nothing has been looked for yet.

    Raises:
        TiermeshError: another process coordinates it, or its journal cannot be used.
    """
    from coordinator.api.service import CoordinatorService
    from coordinator.mesh import Mesh
    from coordinator.workflows.yaml_files import read_fleet_file

    fleet = options.fleet
    async with Mesh.open(
        options.state,
        ladders=await asyncio.to_thread(_ladders, options),
        home=options.home,
        name=options.name,
        network=await asyncio.to_thread(read_fleet_file, fleet) if fleet else None,
        credentials=options.credentials,
        read_only=options.read_only,
    ) as mesh:
        variants = await asyncio.to_thread(_folder, options.variants)
        yield CoordinatorService(mesh, observer=options.read_only, variants=variants)


def _folder(path: Path | None) -> str:
    return str(path.resolve()) if path is not None else ""


def _ladders(options: MeshOptions) -> Ladders | None:
    if options.variants is None:
        return None
    from coordinator.variants import Ladders

    return Ladders.open(options.variants, options.home)
