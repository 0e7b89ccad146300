"""What a device serves, as pure state: which assignment runs, which is prepared, and what may follow.

Every function takes the state and returns the next one, or refuses with one clear error and changes nothing.
The I/O around it (`agent.rollout.activate`) carries the step out and keeps the state on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from tiermesh import limits
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import InvalidDocument, LimitExceeded, StaleGeneration, TiermeshError


@dataclass(frozen=True, slots=True)
class Node:
    """The assignments of a device by workflow: `committed` ones run, `prepared` ones wait beside them.

    `stopped` remembers the last generation of a workflow that was stopped, so that no older one comes back.
    """

    device: str
    committed: Mapping[str, Assignment] = field(default_factory=dict[str, Assignment])
    prepared: Mapping[str, Assignment] = field(default_factory=dict[str, Assignment])
    stopped: Mapping[str, int] = field(default_factory=dict[str, int])

    def generation(self, workflow: str) -> int:
        """The newest generation that ran; 0 where none has."""
        running = self.committed.get(workflow)
        return max(running.generation if running else 0, self.stopped.get(workflow, 0))

    @property
    def generations(self) -> dict[str, int]:
        """The running generation of every workflow."""
        return {name: a.generation for name, a in self.committed.items()}


def check_prepare(node: Node, assignment: Assignment, has_artifact: Callable[[str], bool]) -> None:
    """Whether an assignment may be prepared.

    Raises:
        InvalidDocument: it is meant for another device, or contradicts itself.
        StaleGeneration: it is not newer than what runs.
        TiermeshError: an artifact has not been pushed.
    """
    _check_newer(node, assignment.workflow, assignment.generation)
    check_standby(node, assignment, has_artifact)


def check_standby(node: Node, assignment: Assignment, has_artifact: Callable[[str], bool]) -> None:
    """Whether the replicas of an assignment may be loaded here, whichever generation runs.

    Raises:
        InvalidDocument: it is meant for another device, or contradicts itself.
        TiermeshError: an artifact has not been pushed.
    """
    if assignment.device != node.device:
        raise InvalidDocument(
            "the assignment is for another device",
            why=f"it names {assignment.device}, this is {node.device}",
            path="$.device",
        )
    _check_consistent(assignment)
    missing = [digest for digest in assignment.artifacts if not has_artifact(digest)]
    if missing:
        raise TiermeshError(
            f"{len(missing)} artifacts of the assignment are not on the device",
            why=f"missing: {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}",
            fix="Push them first",
            missing=missing,
        )


def check_peers(assignment: Assignment, check_address: Callable[[str], None]) -> None:
    """Whether the worker may connect to every peer of an assignment; `check_address` raises where it may not.

    Raises:
        InvalidDocument: naming the peer whose address this device must not or cannot connect to.
    """
    for peer in assignment.peers.values():
        if peer.device == assignment.device:
            continue
        try:
            check_address(peer.address)
        except TiermeshError as error:
            raise InvalidDocument(
                f"{peer.name} cannot be reached from here: {error.what}",
                why=error.why,
                fix=error.fix,
                path=f"$.peers.{peer.device}.address",
            ) from None


def prepared(node: Node, assignment: Assignment) -> Node:
    """The state once every replica of `assignment` is loaded, warm and self-tested."""
    return replace(node, prepared={**node.prepared, assignment.workflow: assignment})


def commit(node: Node, workflow: str, generation: int) -> Node:
    """The state in which the prepared generation runs; committing what runs already changes nothing."""
    running = node.committed.get(workflow)
    if running is not None and running.generation == generation:
        return node
    _check_newer(node, workflow, generation)
    waiting = node.prepared.get(workflow)
    if waiting is None or waiting.generation != generation:
        raise TiermeshError(
            f"generation {generation} of {workflow} is not prepared here",
            why=f"prepared: {waiting.generation if waiting else 'none'}",
            fix="Prepare it first",
        )
    return replace(
        node,
        committed={**node.committed, workflow: waiting},
        prepared={k: v for k, v in node.prepared.items() if k != workflow},
    )


def abort(node: Node, workflow: str, generation: int) -> Node:
    """The state without a prepared generation; what runs is not touched.

    Raises:
        StaleGeneration: it runs, so that who wants it gone must roll another out.
    """
    running = node.committed.get(workflow)
    if running is not None and running.generation == generation:
        raise StaleGeneration(
            f"generation {generation} of {workflow} is not forgotten",
            why="it runs here: it was committed before",
            generation=generation,
        )
    waiting = node.prepared.get(workflow)
    if waiting is None or waiting.generation != generation:
        return node
    return replace(node, prepared={k: v for k, v in node.prepared.items() if k != workflow})


def stop(node: Node, workflow: str, generation: int) -> Node:
    """The state without the workflow.

    Raises:
        StaleGeneration: a newer generation runs than the one that was to be stopped.
    """
    running = node.generation(workflow)
    if generation < running:
        raise StaleGeneration(
            f"refusing to stop generation {generation} of {workflow}",
            why=f"generation {running} runs here",
            generation=running,
        )
    return replace(
        node,
        committed={k: v for k, v in node.committed.items() if k != workflow},
        prepared={k: v for k, v in node.prepared.items() if k != workflow},
        stopped={**node.stopped, workflow: generation},
    )


def _check_newer(node: Node, workflow: str, generation: int) -> None:
    running = node.generation(workflow)
    if generation <= running:
        raise StaleGeneration(
            f"generation {generation} of {workflow} is refused",
            why=f"this device has had generation {running}",
            fix="Plan and apply again; generations only grow",
            generation=running,
        )


def _check_consistent(assignment: Assignment) -> None:
    """That every name in an assignment leads somewhere, so that serving never has to ask."""
    if len(assignment.artifacts) > limits.ARTIFACTS_PER_ASSIGNMENT:
        raise LimitExceeded(
            f"the assignment needs {len(assignment.artifacts)} artifacts",
            why=f"the limit is {limits.ARTIFACTS_PER_ASSIGNMENT}",
        )
    for place, name in _dangling(assignment):
        raise InvalidDocument(
            f"the assignment is wrong at `{place}`", why=f"it names {name!r}, unknown", path=place
        )


def _dangling(assignment: Assignment) -> list[tuple[str, str]]:
    stages, replicas = assignment.stages, assignment.replica_devices
    found = [
        (f"$.stages.{s.name}", other)
        for s in stages.values()
        for other in (*s.inputs, *s.outputs)
        if other not in stages
    ]
    found += [
        (f"$.replicas.{r.id}", r.stage if r.stage not in stages else r.id)
        for r in assignment.replicas
        if r.stage not in stages or replicas.get(r.id) != assignment.device
    ]
    for number, lane in enumerate(assignment.routes):
        found += [
            (f"$.lanes[{number}].path.{stage}", replica)
            for stage, replica in (*lane.path.items(), *lane.backup.items())
            if stage not in stages or replica not in replicas
        ]
        found += [(f"$.lanes[{number}].path", stage) for stage in stages if stage not in lane.path]
    found += [
        (f"$.replica_devices.{replica}", device)
        for replica, device in replicas.items()
        if device not in assignment.peers
    ]
    found += [
        (f"$.formers.{stage}", device)
        for stage, device in assignment.formers.items()
        if device not in assignment.peers
    ]
    return found
