"""What the handlers share: the mesh they work on, how devices and workflows are named, pages, and progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from tiermesh import limits
from tiermesh.errors import InvalidDocument, LimitExceeded, Unsupported

if TYPE_CHECKING:
    from coordinator.fleet import Fleet
    from coordinator.fleet.state import Device
    from coordinator.keeping import Keeping
    from coordinator.mesh import Mesh
    from tiermesh.documents.workflow import Workflow

T = TypeVar("T")
Step = TypeVar("Step")


class Handlers:
    """One mesh. `observer`: it is only read, since another process may coordinate it.

    `keeping` is set while this process keeps workflows served; settings are its settings. `variants` is the folder of
    the mesh's ladders, and `source_bytes` what sources send per request where a call does not say.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        observer: bool = False,
        variants: str = "",
        source_bytes: Mapping[str, float] | None = None,
    ) -> None:
        self.mesh = mesh
        self.observer = observer
        self.variants = variants
        self.source_bytes = dict(source_bytes or {})
        self.keeping: Keeping | None = None

    def writes(self) -> Mesh:
        """The mesh, to change something.

        Raises:
            Unsupported: this process only reads it.
        """
        if self.observer:
            raise Unsupported(
                "the mesh cannot be changed from here",
                why="another process holds its state folder and takes no commands",
                fix="Wait until that one has ended, or stop it",
            )
        return self.mesh

    async def look_for_known(self) -> None:
        """Where another process looks for the devices, ask those that are known whether they are there."""
        if self.observer:
            await self.mesh.discover(browse=False)

    def devices_named(self, names: Sequence[str]) -> list[Device]:
        """Devices by name or id; all that are ready where none is named."""
        check_count(names, limits.API_NAMES, "devices")
        return [known_device(self.mesh.fleet, name) for name in names] or self.mesh.fleet.ready

    def workflow_of_digest(self, digest: str) -> Workflow:
        """A workflow that was added.

        Raises:
            InvalidDocument: it was not.
        """
        from coordinator.workflows.yaml_files import parse_workflow

        source = self.mesh.fleet.workflows.get(digest)
        if source is None:
            raise InvalidDocument(
                f"no workflow {digest or 'of that name'} is known here", fix="Add it first"
            )
        return parse_workflow(source.text)

    def running_named(self, wanted: str, what: str) -> str:
        """The name of a workflow that runs; the only one where none is named.

        Raises:
            InvalidDocument: none runs, none of that name, or several and none is named.
        """
        names = sorted(self.mesh.fleet.running)
        if wanted in names:
            return wanted
        if not wanted and len(names) == 1:
            return names[0]
        known = ", ".join(names) or "nothing"
        if not wanted and names:
            raise InvalidDocument(f"which workflow is to be {what}?", fix=f"Name one: {known}")
        said = f"`{wanted}` does not run" if wanted else "nothing runs"
        raise InvalidDocument(said, fix=f"Running: {known}")


def known_device(fleet: Fleet, name: str) -> Device:
    """The device of that name or id, whatever its state.

    Raises:
        InvalidDocument: there is none.
    """
    device = fleet.named(name)
    if device is None:
        known = ", ".join(sorted(d.name for d in fleet.devices.values())) or "none"
        raise InvalidDocument(f"there is no device `{name}`", fix=f"Known: {known}")
    return device


def check_count(items: Sequence[object], most: int, what: str) -> None:
    """Refuse a call that names too much.

    Raises:
        LimitExceeded: naming the limit.
    """
    if len(items) > most:
        raise LimitExceeded(f"{len(items)} {what} in one call", why=f"the limit is {most}")


def page_size_of(wanted: int) -> int:
    """The size of a page: what the client wants, the limit where it says nothing.

    Raises:
        LimitExceeded: it wants more.
    """
    if wanted > limits.API_PAGE:
        raise LimitExceeded(
            f"a page of {wanted} entries", why=f"the limit is {limits.API_PAGE} (API_PAGE)"
        )
    return wanted or limits.API_PAGE


def paged(
    items: Iterable[T], key: Callable[[T], str], page_size: int, token: str
) -> tuple[list[T], str]:
    """A page of items in the order of `key`, and the token of the next one; empty on the last page.

    The token is the last key of its page, so that what comes and goes between two pages moves nothing.
    """
    size = page_size_of(page_size)
    rest = sorted((item for item in items if key(item) > token), key=key)
    page = rest[:size]
    return page, key(page[-1]) if len(rest) > size else ""


async def reported(
    work: Callable[[Callable[[Step], None]], Awaitable[T]],
) -> AsyncGenerator[Step | T]:
    """Do some work: yields its progress as it comes, from any thread, and at last its result.

    Closing this, or cancelling its reader, cancels the work and waits for its end: what it had begun is undone
    first. A slow reader misses progress rather than letting it pile up.
    """
    steps = deque[Step](maxlen=limits.API_PROGRESS_WAITING)
    arrived, loop = asyncio.Event(), asyncio.get_running_loop()

    def report(step: Step) -> None:
        steps.append(step)
        with contextlib.suppress(RuntimeError):  # the loop ended before this thread did
            loop.call_soon_threadsafe(arrived.set)

    task = asyncio.ensure_future(work(report))
    task.add_done_callback(lambda _task: arrived.set())
    try:
        while not task.done() or steps:
            await arrived.wait()
            arrived.clear()
            while steps:
                yield steps.popleft()
        yield task.result()
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))
