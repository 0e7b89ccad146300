"""The demo's mesh held for the terminal interface: photos are read again and again until it is closed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from coordinator.cli.demo import agents, photos
from coordinator.cli.demo.agents import DEVICES
from coordinator.cli.demo.run import PLAN, PROFILE
from coordinator.mesh import Mesh
from coordinator.progress import Progress
from coordinator.variants import Fetcher, Ladders
from coordinator.variants import FetchProgress as Fetching
from tiermesh.errors import TiermeshError

if TYPE_CHECKING:
    from coordinator.tui.live import LiveSession, OpenMesh
    from tiermesh.documents.workflow import Workflow

PHOTOS: Final = 120
SEED: Final = 7


class HeldDemo:
    """The demo's agents and its mesh. `opening` starts them, `begin` brings the workflow onto them."""

    def __init__(self, *, home: Path, folder: Path, variants: Path) -> None:
        self._home = home
        self._variants = variants
        self._agents = folder / "agents"
        self._state = folder / "coordinator"
        self._name = agents.mesh_of(folder)
        self._workflow = variants / "read-signs" / "read-signs.yaml"
        self._ladders: Ladders | None = None

    @contextlib.asynccontextmanager
    async def opening(self) -> AsyncGenerator[OpenMesh]:
        """The mesh, its agents started; they end with the context.

        Raises:
            TiermeshError: another demo uses the folder.
        """
        from coordinator.api.client import CoordinatorClient
        from coordinator.api.service import CoordinatorService
        from coordinator.tui.live import OpenMesh

        ladders = self._ladders = await asyncio.to_thread(Ladders.open, self._variants, self._home)
        async with Mesh.open(
            self._state, ladders=ladders, home=self._home, name=self._name
        ) as mesh:
            await asyncio.to_thread(self._render)
            async with agents.running(self._agents, self._name):
                service = CoordinatorService(mesh, source_bytes=self._source_bytes())
                yield OpenMesh(CoordinatorClient.in_process(service), service)

    def _render(self) -> None:
        cameras = [d.name for d in DEVICES if d.tier == DEVICES[0].tier]
        folders = [self._agents / camera / "data" / "signs" for camera in cameras]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        photos.render(folders, PHOTOS, SEED)

    def _source_bytes(self) -> dict[str, float]:
        sizes = [p.stat().st_size for p in self._agents.glob("*/data/signs/*.jpg")]
        return {"photos": sum(sizes) / len(sizes)}

    async def begin(self, mesh: Mesh, session: LiveSession) -> None:
        """Fetch, profile, plan and roll out, each step told to the session."""
        async with session.doing("fetch models"):
            await self._fetch(session)
        workflow = await self._endless(mesh)
        async with session.doing("profile what has no profile yet"):
            await mesh.profile(workflow, options=PROFILE, report=session.report)
        async with session.doing("plan and roll out"):
            plan = await mesh.plan(workflow, PLAN, source_bytes=self._source_bytes())
            run = f"demo-{int(time.time())}"
            applied = await mesh.apply(plan, run=run, report=session.report)
            if applied.failures:
                raise TiermeshError(
                    "the rollout failed and was undone",
                    why="; ".join(f"{d}: {why}" for d, why in applied.failures.items()),
                    fix=f"See the logs in {self._agents}",
                )

    async def _fetch(self, session: LiveSession) -> None:

        ladders = self._ladders
        wanted = [m for m in ladders.models if ladders.missing(m)] if ladders is not None else []
        if not wanted or ladders is None:
            return

        def watch(step: Fetching) -> None:
            session.report(Progress("fetch", step.task, step.done / max(step.total, 1)))

        await asyncio.to_thread(Fetcher(ladders, watch=watch).fetch, wanted)

    async def _endless(self, mesh: Mesh) -> Workflow:
        """The demo's workflow, its source beginning again when all photos were sent."""
        text = await asyncio.to_thread(self._workflow.read_text, encoding="utf-8")
        plain: dict[str, Any] = yaml.safe_load(text)
        plain["stages"]["photos"]["repeat"] = True
        repeated = yaml.safe_dump(plain, sort_keys=False)
        return await mesh.keep_workflow(repeated, str(self._workflow.resolve().parent))
