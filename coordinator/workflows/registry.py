"""The workflows that a coordinator knows, and what their stages can be served with."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.fleet import events
from coordinator.fleet.state import Catalogue, WorkflowSource
from coordinator.journal.recorder import Recorder
from coordinator.planning.snapshot import AccuracyTable
from coordinator.workflows.catalogue import LadderSource, accuracy_of, catalogue_of
from coordinator.workflows.yaml_files import parse_workflow, read_workflow
from tiermesh.documents.plan import Plan
from tiermesh.documents.variant import Bundle, Variant
from tiermesh.documents.workflow import Workflow
from tiermesh.errors import DigestMismatch, InvalidDocument, TiermeshError


class Workflows:
    """Workflow files as the journal keeps them, with the variants and stage code that `ladders` has for them.

    `home` is the folder of the artifacts that stage code becomes.
    """

    def __init__(self, recorder: Recorder, ladders: LadderSource | None, home: Path) -> None:
        self._recorder = recorder
        self._ladders = ladders
        self._home = home
        self._catalogues: dict[str, Catalogue] = {}
        self._told: dict[str, str] = {}

    async def read(self, path: Path) -> Workflow:
        """Read a workflow file, and keep it so that a plan for it can be applied alone."""
        _, source = await asyncio.to_thread(read_workflow, path)
        return await self.keep(source.text, source.folder)

    async def keep(self, text: str, folder: str) -> Workflow:
        """Check the text of a workflow file, and keep it; its paths are relative to `folder`."""
        workflow = await asyncio.to_thread(parse_workflow, text)
        source = WorkflowSource(name=workflow.workflow, text=text, folder=folder)
        if self._recorder.fleet.workflows.get(workflow.digest) != source:
            recorded = events.WorkflowRecorded(
                at=self._recorder.now(),
                who=self._recorder.who,
                workflow=workflow.workflow,
                digest=workflow.digest,
                text=source.text,
                folder=source.folder,
            )
            await self._recorder.record(recorded)
        return workflow

    async def remove(self, name: str) -> None:
        """Know a workflow no longer, in any version; its plans and its journal stay.

        Raises:
            InvalidDocument: there is none of that name.
            TiermeshError: it runs, or is being rolled out.
        """
        fleet = self._recorder.fleet
        names = sorted({source.name for source in fleet.workflows.values()})
        if name not in names:
            known = ", ".join(names) or "none"
            raise InvalidDocument(f"no workflow `{name}` is known", fix=f"Known: {known}")
        rollout = fleet.rollouts.get(name)
        if name in fleet.running or (rollout is not None and rollout.outcome is None):
            raise TiermeshError(
                f"`{name}` cannot be removed",
                why="it runs, or is being rolled out",
                fix="Only what does not run can be removed",
            )
        removed = events.WorkflowRemoved(
            at=self._recorder.now(), who=self._recorder.who, workflow=name
        )
        await self._recorder.record(removed)

    def of(self, plan: Plan) -> Workflow:
        """The workflow that a plan was made for.

        Raises:
            DigestMismatch: this coordinator never saw it, so the workflow file is needed.
        """
        digest = plan.made_for.workflow
        source = self._recorder.fleet.workflows.get(digest or "")
        if source is None:
            raise DigestMismatch(
                f"the workflow of this plan for `{plan.workflow}` is not known here",
                why=f"the plan names {digest or 'none'}, which was not planned with this state folder",
                fix="Give the workflow file: coordinator apply PLAN --workflow WORKFLOW.yaml",
                workflow=plan.workflow,
                digest=digest,
            )
        return parse_workflow(source.text)

    async def catalogue(self, workflow: Workflow) -> Catalogue:
        """The variants and stage code that the workflow's stages can be served with, as they are on disk now.

        Files that are wrong just now, since somebody writes them, do not stop what is kept served: then what was read
        before counts.
        """
        digest = workflow.digest
        source = self._recorder.fleet.workflows.get(digest)
        folder = Path(source.folder) if source else Path()
        try:
            self._catalogues[digest] = await asyncio.to_thread(self._read, workflow, folder)
        except InvalidDocument as error:
            if digest not in self._catalogues:
                raise
            if self._told.get(digest) != str(error):
                self._told[digest] = str(error)
                await self._recorder.note(f"what was read before is used: {error}")
        return self._catalogues[digest]

    def _read(self, workflow: Workflow, folder: Path) -> Catalogue:
        self.ladders.reload()
        return catalogue_of(workflow, folder, self.ladders, self._bundle)

    @property
    def has_ladders(self) -> bool:
        """Whether there are ladders, and so variants to plan with."""
        return self._ladders is not None

    @property
    def ladders(self) -> LadderSource:
        """The ladders; TiermeshError where the mesh was opened without any."""
        if self._ladders is None:
            raise TiermeshError("no ladders were opened", fix="Name their folder with --variants")
        return self._ladders

    def path_of(self, digest: str) -> Path:
        """Where an artifact lies on this machine."""
        return self.ladders.path_of(digest)

    def _bundle(self, folder: Path) -> Bundle:
        from coordinator.variants import bundle

        return bundle(folder, self._home)

    async def accuracy(self, workflow: Workflow) -> AccuracyTable:
        """The measured accuracies that the workflow's ask is about."""
        return await asyncio.to_thread(accuracy_of, workflow, self.ladders)

    async def variants(self, workflow: Workflow | None = None) -> list[Variant]:
        """The variants of a workflow's models; of all models without one."""
        if workflow is not None:
            found = (await self.catalogue(workflow)).variants.values()
            by_digest = {v.digest: v for of in found for v in of.values()}
            return list(by_digest.values())
        ladders = self.ladders
        return [v for m in ladders.models for v in await asyncio.to_thread(ladders.variants, m)]
