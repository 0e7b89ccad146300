"""Real workers on loopback: workflows, faults, rollouts; the ledger is checked after each."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.integration.serving.meshes import CHAIN, Device, Mesh, check_ledger, until
from tiermesh import histogram, limits
from tiermesh.documents.assignment import Assignment
from tiermesh.errors import TiermeshError
from tiermesh.v1 import telemetry_pb2 as pb

FORK = {
    "photos": ("source", [], ""),
    "upper": ("map", ["photos"], "Upper"),
    "length": ("map", ["photos"], "Length"),
    "both": ("join", ["upper", "length"], "Both"),
    "keep": ("filter", ["both"], "OddLength"),
    "out": ("sink", ["keep"], ""),
}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    made = Mesh(tmp_path, ["a", "b", "c"])
    try:
        yield made
    finally:
        sys.stdout.write(made.describe())
        await made.close()


def source_of(mesh: Mesh, device: str) -> pb.SourceSample:
    sample = pb.Sample()
    mesh[device].supervisor.fill(sample)
    (source,) = sample.figures.sources
    return source


def kill(mesh: Mesh, device: str, how: signal.Signals) -> int:
    pid = mesh[device].supervisor.pid
    assert pid is not None
    os.kill(pid, how)
    return pid


async def test_a_chain_over_two_devices(mesh: Mesh) -> None:
    mesh.offer("a", 60)
    await mesh.serve(mesh.assign(CHAIN, [(1.0, {"photos": "a", "upper": "b", "out": "a"}, {})]))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=60) == {"result": 60}
    assert min(line["payload"]["text"] for line in mesh["a"].results()) == "FILE 0"
    sample = pb.Sample()
    mesh["a"].supervisor.fill(sample)
    assert sample.worker.state == pb.WorkerState.STATE_SERVING
    assert sample.worker.pid == mesh["a"].supervisor.pid
    (source,), (sink,) = sample.figures.sources, sample.figures.sinks
    assert (source.accepted, source.confirmed, source.in_flight) == (60, 60, 0)
    assert source.finished
    latency = histogram.read(source.latency)
    assert latency.count == 60
    assert 0 < latency.percentile_s(0.5) <= latency.percentile_s(0.99)
    assert (sink.results, sink.errors, sink.duplicates) == (60, 0, 0)
    other = mesh["b"].supervisor
    await until(
        lambda: other.figures.replicas[0].requests == 60, "the other worker tells its counts"
    )
    (replica,) = other.figures.replicas
    assert (replica.replica, replica.waiting) == ("upper@b", 0)


async def test_branches_meet_and_stage_errors_end_one_request_each(mesh: Mesh) -> None:
    mesh.offer("a", 40)
    (mesh["a"].data / "in" / "00007bad.txt").write_text("xyz")
    lanes = [
        (0.5, dict(zip(FORK, "abcbca", strict=True)), {}),
        (0.5, dict(zip(FORK, "acbcba", strict=True)), {}),
    ]
    await mesh.serve(mesh.assign(FORK, lanes, latency_s={"p50": 1e-6, "p95": 50.0}))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    outcomes = check_ledger(mesh["a"].results(), accepted=41)
    assert outcomes == {"result": 30, "filtered": 10, "error": 1}
    source = source_of(mesh, "a")
    assert (source.accepted, source.errors, source.filtered, source.in_flight) == (41, 1, 10, 0)
    minute, run = source.windows[1], source.windows[-1]
    assert (minute.seconds, run.seconds) == (60.0, 0.0)
    for window in (minute, run):
        assert (window.ended, window.failed) == (41, 1)
        assert dict(window.within) == {"p50": 0, "p95": 40}
        assert 0 < window.covered_seconds < 60
    # The lane of a request follows from its id; its attempt was confirmed on it.
    lines = [line for line in mesh["a"].results() if line["outcome"] != "error"]
    assert dict(source.lanes) == Counter(line.get("lane", 0) for line in lines)
    assert source.generation == 1
    (error,) = [line for line in mesh["a"].results() if line["outcome"] == "error"]
    assert error["name"] == "in/00007bad.txt"
    assert error["error"].startswith("upper: ValueError: a bad file (code.py:")
    result = next(line for line in mesh["a"].results() if line["outcome"] == "result")
    assert result["payload"].keys() == {"name", "text", "length"}


async def test_killed_workers_go_on_where_they_were(mesh: Mesh) -> None:
    mesh.offer("a", 200)
    lanes = [(1.0, dict(zip(FORK, "abcbcb", strict=True)), {})]
    await mesh.serve(mesh.assign(FORK, lanes, rate=100.0, latency_s={"p95": 300.0}))
    for victim, results in (("b", 20), ("a", 70), ("c", 100)):
        await until(lambda n=results: len(mesh["b"].results()) >= n, "results come")
        kill(mesh, victim, signal.SIGKILL)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    outcomes = check_ledger(mesh["b"].results(), accepted=200)
    assert outcomes == {"result": 90, "filtered": 110}
    source = source_of(mesh, "a")
    assert (source.accepted, source.errors, source.filtered) == (200, 0, 110)
    run = source.windows[-1]
    assert (run.ended, run.failed, dict(run.within)) == (200, 0, {"p95": 200}), (
        "kills lose no count"
    )
    for device in mesh.devices.values():
        told = dict(device.events)
        assert "killed by signal 9" in told["worker-ended"]
        assert "serves again" in told["worker-restarted"]
        assert device.supervisor.restarts == 1


async def test_a_stopped_worker_is_passed_by_through_the_backup(mesh: Mesh) -> None:
    mesh.offer("a", 260)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {"upper": "c"})], rate=100.0))
    await until(lambda: len(mesh["a"].results()) >= 50, "results come")
    kill(mesh, "b", signal.SIGSTOP)
    await until(lambda: len(mesh["a"].results()) >= 200, "results come past the stopped worker", 6)
    kill(mesh, "b", signal.SIGCONT)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=260) == {"result": 260}
    assert ("peer-lost", "b does not answer; lanes through it use their backup") in mesh["a"].events


async def test_a_new_generation_takes_over_between_two_requests(mesh: Mesh) -> None:
    mesh.offer("a", 250)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0))
    await until(lambda: len(mesh["a"].results()) >= 60, "results come")
    moved = mesh.assign(CHAIN, [(1.0, {**lane, "upper": "c"}, {})], rate=100.0, generation=2)
    await mesh.serve(moved)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=250) == {"result": 250}
    generations = [line["generation"] for line in mesh["a"].results()]
    assert set(generations) == {1, 2}
    assert all(line["attempts"] == 1 for line in mesh["a"].results())
    await until(
        lambda: {r.generation for r in mesh["b"].supervisor.figures.replicas} == set(),
        "the old generation goes once it has drained",
    )


async def test_what_cannot_be_prepared_is_named_and_changes_nothing(mesh: Mesh) -> None:
    mesh.offer("a", 80)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0))
    wrong = {**CHAIN, "upper": ("map", ["photos"], "NoSuchClass")}
    with pytest.raises(TiermeshError, match="upper@a") as refused:
        await mesh["a"].supervisor.prepare(
            mesh.assign(wrong, [(1.0, lane, {})], generation=2)["a"], lambda *_: None
        )
    assert refused.value.fields["replica"] == "upper@a"
    with pytest.raises(TiermeshError, match="not prepared"):
        await mesh["a"].supervisor.commit("w", 2)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=80) == {"result": 80}


async def test_requests_that_cannot_be_done_in_time_end_in_errors_that_say_where(
    mesh: Mesh,
) -> None:
    mesh.offer("a", 12)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    slow = {"wait": 0.5}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0, deadline=2.0, options=slow))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    outcomes = check_ledger(mesh["a"].results(), accepted=12)
    assert outcomes["result"] >= 1
    assert outcomes["error"] >= 4
    errors = [line["error"] for line in mesh["a"].results() if line["outcome"] == "error"]
    assert "upper: the deadline has passed" in errors


async def test_a_worker_ends_with_its_agent_and_serves_again_with_the_next(mesh: Mesh) -> None:
    mesh.offer("a", 200)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    assignments = mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0)
    await mesh.serve(assignments)
    await until(lambda: len(mesh["a"].results()) >= 20, "results come")
    pid = mesh["a"].supervisor.pid
    assert pid is not None
    await mesh["a"].supervisor.close()
    assert not Path(f"/proc/{pid}").exists()
    mesh["a"].supervisor = mesh["a"].new_supervisor()
    await mesh.serve({"a": assignments["a"]})
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=200) == {"result": 200}


async def test_a_new_run_also_ends_what_the_one_before_had_accepted(mesh: Mesh) -> None:
    mesh.offer("a", 40)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    slow = mesh.assign(CHAIN, [(1.0, lane, {})], rate=1_000.0, options={"wait": 0.05})
    await mesh.serve({"a": slow["a"]})
    await until(lambda: len(mesh["a"].results()) >= 5, "results come")
    kill(mesh, "a", signal.SIGKILL)
    await mesh["a"].supervisor.close()
    mesh["a"].supervisor = mesh["a"].new_supervisor()
    other = mesh.assign(CHAIN, [(1.0, lane, {})], rate=1_000.0, run="run-2", generation=2)
    await mesh.serve({"a": other["a"]})
    await until(lambda: len(mesh["a"].results()) == 80, "both runs end")
    assert check_ledger(mesh["a"].results(), accepted=80) == {"result": 80}
    await until(lambda: mesh.is_finished("a"), "the run finishes")


async def test_stopping_drains_and_the_worker_ends(mesh: Mesh) -> None:
    mesh.offer("a", 500)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    await mesh.serve({"a": mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0)["a"]})
    await until(lambda: len(mesh["a"].results()) >= 20, "results come")
    pid = mesh["a"].supervisor.pid
    await mesh["a"].supervisor.stop("w")
    assert mesh["a"].supervisor.pid is None
    assert not Path(f"/proc/{pid}").exists()
    results = mesh["a"].results()
    assert 20 <= len(results) < 500
    check_ledger(results, accepted=len(results))


def standby(mesh: Mesh, device: str, *stages: str) -> Assignment:
    """The replicas of these stages of a chain on one device, and no more."""
    lane = dict.fromkeys(CHAIN, device)
    whole = mesh.assign(CHAIN, [(1.0, lane, {})])[device]
    return replace(whole, replicas=[r for r in whole.replicas if r.stage in stages], lanes=[])


async def test_what_stands_by_is_not_loaded_again_and_stays_when_the_workflow_is_stopped(
    mesh: Mesh,
) -> None:
    supervisor = mesh["a"].supervisor
    assignment = mesh.assign(CHAIN, [(1.0, dict.fromkeys(CHAIN, "a"), {})])["a"]
    await supervisor.stand_by(replace(assignment, lanes=[]))
    pid, steps = supervisor.pid, Counter[tuple[str, str]]()
    assert pid is not None
    mesh.offer("a", 30)
    await supervisor.prepare(assignment, lambda step, replica, _: steps.update([(step, replica)]))
    assert not [replica for _, replica in steps if replica == "upper@a"]
    await supervisor.commit("w", 1)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    await supervisor.stop("w")
    assert supervisor.pid == pid
    await supervisor.stand_by(standby(mesh, "a"))
    assert supervisor.pid is None, "nothing is left to serve or to stand by"


async def test_a_workflow_comes_back_to_a_worker_that_has_lived_on(mesh: Mesh) -> None:
    """What stands by keeps the worker alive while the workflow is elsewhere: its streams begin anew all the same."""
    mesh.offer("a", 500)
    lane = {"photos": "a", "upper": "b", "out": "a"}

    async def serve(upper: str, generation: int) -> None:
        path = {**lane, "upper": upper}
        there = mesh.assign(
            CHAIN, [(1.0, path, {})], rate=100.0, generation=generation, deadline=60.0
        )
        await mesh.serve({name: there[name] for name in {"a", upper}})
        before = len(mesh["a"].results())
        await until(lambda: len(mesh["a"].results()) >= before + 50, f"{upper} serves again", 10.0)

    await serve("b", 1)
    pid = mesh["b"].supervisor.pid
    await mesh["b"].supervisor.stand_by(standby(mesh, "b", "upper"))
    await serve("c", 2)
    await mesh["b"].supervisor.stop("w")
    assert mesh["b"].supervisor.pid == pid
    await serve("b", 3)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=500) == {"result": 500}


async def test_what_stands_by_is_loaded_again_by_the_next_worker_beside_what_runs(
    mesh: Mesh,
) -> None:
    mesh.offer("a", 200)
    await mesh.serve({"a": mesh.assign(CHAIN, [(1.0, dict.fromkeys(CHAIN, "a"), {})])["a"]})
    supervisor = mesh["a"].supervisor
    loud = {**CHAIN, "upper": ("map", ["photos"], "Loud")}
    whole = mesh.assign(loud, [(1.0, dict.fromkeys(loud, "a"), {})], run="run-2")["a"]
    await supervisor.stand_by(
        replace(whole, replicas=[r for r in whole.replicas if r.stage == "upper"], lanes=[])
    )
    loaded = lambda: read_log(mesh["a"]).count(("upper@a", 0))  # noqa: E731
    await until(lambda: loaded() == 1, "it stands by")
    kill(mesh, "a", signal.SIGKILL)
    await until(lambda: loaded() == 2, "it stands by again")
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=200) == {"result": 200}


async def test_a_standby_that_cannot_be_loaded_leaves_what_runs(mesh: Mesh) -> None:
    mesh.offer("a", 100)
    await mesh.serve({"a": mesh.assign(CHAIN, [(1.0, dict.fromkeys(CHAIN, "a"), {})])["a"]})
    broken = standby(mesh, "a", "upper")
    (upper,) = broken.replicas
    assert upper.bundle is not None
    wrong = replace(upper, bundle=replace(upper.bundle, entry="code:Nothing"))
    with pytest.raises(TiermeshError, match="upper@a"):
        await mesh["a"].supervisor.stand_by(replace(broken, replicas=[wrong]))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=100) == {"result": 100}


async def test_what_stands_by_is_let_go_of_when_nobody_names_it_again(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STANDBY_S", 0.5)
    supervisor = mesh["a"].supervisor
    await supervisor.stand_by(standby(mesh, "a", "upper"))
    assert supervisor.pid is not None
    await until(lambda: supervisor.pid is None, "the worker ends")


def read_log(device: Device) -> list[tuple[str, int]]:
    """The replicas that a device has loaded, by what it has written down, and for which generation."""
    path = device.root / "state" / "logs" / "batches.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    entries = [json.loads(line) for line in lines]
    return [(e["replica"], e["generation"]) for e in entries if e["entry"] == "replica-loaded"]


@pytest.mark.parametrize("path", ["../out.jsonl", "/tmp/out.jsonl", "link/out.jsonl"])  # noqa: S108
async def test_a_sink_stays_in_the_data_folder(mesh: Mesh, path: str, tmp_path: Path) -> None:
    mesh.offer("a", 1)
    (mesh["a"].data / "link").symlink_to(tmp_path)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    assignment = mesh.assign(CHAIN, [(1.0, lane, {})], sink_path=path)["a"]
    with pytest.raises(TiermeshError, match="outside the data folder") as refused:
        await mesh["a"].supervisor.prepare(assignment, lambda *_: None)
    assert refused.value.fields["replica"] == "out@a"


async def test_what_stage_code_prints_does_not_disturb_the_control_channel(mesh: Mesh) -> None:
    mesh.offer("a", 5)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    loud = {**CHAIN, "upper": ("map", ["photos"], "Loud")}
    await mesh.serve({"a": mesh.assign(loud, [(1.0, lane, {})])["a"]})
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=5) == {"result": 5}


async def test_a_worker_that_dies_again_and_again_is_started_ever_later(mesh: Mesh) -> None:
    mesh.offer("a", 1)
    deadly = {**CHAIN, "upper": ("map", ["photos"], "Deadly")}
    lane = {"photos": "b", "upper": "a", "out": "a"}
    await mesh["a"].supervisor.prepare(mesh.assign(deadly, [(1.0, lane, {})])["a"], lambda *_: None)
    (mesh["a"].data / "die").touch()
    began = asyncio.get_running_loop().time()
    kill(mesh, "a", signal.SIGKILL)
    ends = lambda: [text for kind, text in mesh["a"].events if kind == "worker-ended"]  # noqa: E731
    await until(lambda: len(ends()) >= 4, "it is tried again")
    assert asyncio.get_running_loop().time() - began > 0.6
    assert "exit status 3" in ends()[-1]


async def test_an_assignment_that_ends_the_worker_is_set_aside_and_the_others_are_served(
    mesh: Mesh,
) -> None:
    device, aside = mesh["a"], []
    device.supervisor = device.new_supervisor(probation_s=1.0)
    device.supervisor.on_set_aside = lambda *what: aside.append(what)
    mesh.offer("a", 5)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    deadly = {**CHAIN, "upper": ("map", ["photos"], "Deadly")}
    bad = replace(mesh.assign(deadly, [(1.0, lane, {})])["a"], workflow="bad")
    good = mesh.assign(CHAIN, [(1.0, lane, {})], rate=1.0, sink_path="good.jsonl")["a"]
    for assignment in (bad, good):
        await mesh.serve({"a": assignment})
    (device.data / "die").touch()
    kill(mesh, "a", signal.SIGKILL)
    events = lambda kind: [text for k, text in device.events if k == kind]  # noqa: E731
    await until(lambda: events("worker-restarted"), "the other workflow is served again", 40.0)
    (told,) = events("assignment-set-aside")
    assert told.startswith("bad, generation 1: the worker ended 4 times in a row")
    assert [(workflow, generation) for workflow, generation, _ in aside] == [("bad", 1)]
    await until(lambda: len(device.results("good.jsonl")) == 5, "it has ended", 20.0)


@pytest.mark.slow
async def test_an_assignment_that_makes_the_worker_hang_is_set_aside(mesh: Mesh) -> None:
    device = mesh["a"]
    device.supervisor = device.new_supervisor(probation_s=12.0)
    mesh.offer("a", 5)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    stalls = {**CHAIN, "upper": ("map", ["photos"], "Stalls")}
    bad = replace(mesh.assign(stalls, [(1.0, lane, {})])["a"], workflow="bad")
    await mesh.serve({"a": bad})
    (device.data / "stall").touch()
    kill(mesh, "a", signal.SIGKILL)
    told = lambda: [text for k, text in device.events if k == "assignment-set-aside"]  # noqa: E731
    await until(told, "it is set aside", 90.0)


async def test_workers_that_somebody_else_kills_say_nothing_of_what_they_served(mesh: Mesh) -> None:
    mesh.offer("a", 1)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})]))
    supervisor = mesh["a"].supervisor
    for number in range(1, 6):
        kill(mesh, "a", signal.SIGKILL)
        await until(lambda n=number: supervisor.restarts == n and supervisor.pid, "it is back")
    assert not [text for kind, text in mesh["a"].events if kind == "assignment-set-aside"]


async def test_a_worker_that_cannot_be_started_just_now_is_started_when_it_can(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh.offer("a", 1)
    lane = {"photos": "a", "upper": "a", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})]))
    real, refused = asyncio.create_subprocess_exec, []

    async def no_room(*words: object, **more: object) -> object:
        if len(refused) < 2:
            refused.append(words)
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return await real(*words, **more)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", no_room)
    kill(mesh, "a", signal.SIGKILL)
    await until(lambda: mesh["a"].supervisor.restarts == 1, "it is back")
    told = [text for kind, text in mesh["a"].events if kind == "worker-failed"]
    assert len(told) == 2
    assert "Resource temporarily unavailable" in told[0]


async def test_a_request_that_ends_the_worker_each_time_is_given_up(mesh: Mesh) -> None:
    mesh.offer("a", 40)
    (mesh["a"].data / "in" / "00007poison.txt").write_text("xyz")
    code = {**CHAIN, "upper": ("map", ["photos"], "Poisonable")}
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(code, [(1.0, lane, {})], rate=200.0))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=41) == {"result": 40, "error": 1}
    (error,) = [line for line in mesh["a"].results() if line["outcome"] == "error"]
    assert error["name"] == "in/00007poison.txt"
    assert error["error"].startswith(f"upper: the worker ended {limits.POISON_ENDS} times")
    assert mesh["b"].supervisor.restarts == limits.POISON_ENDS
    assert any(kind == "request-quarantined" for kind, _ in mesh["b"].events)


async def test_a_request_that_wants_more_memory_than_there_is_ends_once_and_alone(
    mesh: Mesh,
) -> None:
    mesh["b"].memory_bytes = 3 * 2**30
    mesh["b"].supervisor = mesh["b"].new_supervisor()
    mesh.offer("a", 40)
    (mesh["a"].data / "in" / "00007poison.txt").write_text("xyz")
    code = {**CHAIN, "upper": ("map", ["photos"], "Hungry")}
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(code, [(1.0, lane, {})], rate=200.0))
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=41) == {"result": 40, "error": 1}
    (error,) = [line for line in mesh["a"].results() if line["outcome"] == "error"]
    assert error["name"] == "in/00007poison.txt"
    assert "MemoryError" in error["error"]
    assert mesh["b"].supervisor.restarts == 0
    pid = mesh["b"].supervisor.pid
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) > 0, "it goes before the agent"


@pytest.mark.slow
async def test_a_batch_that_never_ends_ends_its_worker_and_not_the_flow(mesh: Mesh) -> None:
    mesh.offer("a", 60)
    (mesh["a"].data / "in" / "00001poison.txt").write_text("xyz")
    code = {**CHAIN, "upper": ("map", ["photos"], "Endless")}
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(code, [(1.0, lane, {})], rate=4.0, deadline=6.0))
    await until(lambda: mesh.is_finished("a"), "the run finishes", 50.0)
    ends = {line["name"]: line["outcome"] for line in mesh["a"].results()}
    assert len(ends) == 61
    assert ends["in/00001poison.txt"] == "error"
    assert [ends[name] for name in sorted(ends)[-10:]] == ["result"] * 10
    hung = [text for kind, text in mesh["b"].events if kind == "batch-hangs"]
    assert hung[0].startswith("w, upper@b: a batch computes for more than 5 s")


async def test_a_worker_that_says_nothing_is_replaced(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WORKER_SILENT_S", 1.5)
    mesh.offer("a", 200)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0))
    await until(lambda: len(mesh["a"].results()) >= 30, "results come")
    kill(mesh, "b", signal.SIGSTOP)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=200) == {"result": 200}
    assert mesh["b"].supervisor.restarts == 1
    assert [text for kind, text in mesh["b"].events if kind == "worker-silent"]


COUNTED = {
    "photos": ("source", [], ""),
    "keyed": ("map", ["photos"], "Keyed"),
    "count": ("aggregate", ["keyed"], "Count"),
    "out": ("sink", ["count"], ""),
}


def counts_by_key(mesh: Mesh) -> list[list[dict[str, object]]]:
    by_key: dict[str, list[dict[str, object]]] = {}
    for line in sorted(mesh["a"].results(), key=lambda one: one["name"]):
        by_key.setdefault(line["payload"]["key"], []).append(line["payload"])
    return list(by_key.values())


async def test_an_aggregate_goes_on_where_it_was_when_its_worker_is_killed(mesh: Mesh) -> None:
    mesh.offer("a", 200)
    lanes = [(1.0, dict(zip(COUNTED, "abca", strict=True)), {})]
    await mesh.serve(mesh.assign(COUNTED, lanes, rate=100.0))
    for victim, results in (("c", 30), ("b", 60), ("c", 100)):
        await until(lambda n=results: len(mesh["a"].results()) >= n, "results come")
        kill(mesh, victim, signal.SIGKILL)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=200) == {"result": 200}
    for counts in counts_by_key(mesh):
        assert [one["count"] for one in counts] == list(range(20)), "each was counted once"
        assert [one["last"] for one in counts] == ["", *(one["name"] for one in counts[:-1])]
    said = [text for kind, text in mesh["c"].events if kind == "aggregate-state"]
    assert said[0] == "w, count: its state is on disk"
    assert said[-1] == "w, count: its state is on disk; it goes on with 10 keys"


async def test_an_aggregate_moves_with_its_state_though_workers_are_killed(mesh: Mesh) -> None:
    mesh.offer("a", 300)

    def on(device: str, generation: int, former: str) -> dict[str, Assignment]:
        lanes = [(1.0, dict(zip(COUNTED, f"ab{device}a", strict=True)), {})]
        formers = {"count": former} if former else {}
        return mesh.assign(COUNTED, lanes, rate=100.0, generation=generation, formers=formers)

    await mesh.serve(on("c", 1, ""))
    for generation, (device, former, victim) in enumerate(("bcb", "abb", "cac"), 2):
        seen = 60 * (generation - 1)
        await until(lambda n=seen: len(mesh["a"].results()) >= n, "results come")
        moved = on(device, generation, former)
        await mesh.prepare(moved)
        moving = asyncio.create_task(mesh.commit(moved))
        await asyncio.sleep(0)
        kill(mesh, victim, signal.SIGKILL)
        await moving
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=300) == {"result": 300}
    for counts in counts_by_key(mesh):
        assert [one["count"] for one in counts] == list(range(30)), "each was counted once"
        assert [one["last"] for one in counts] == ["", *(one["name"] for one in counts[:-1])]
    said = [text for d in "bac" for kind, text in mesh[d].events if kind == "aggregate-moved"]
    assert said == [f"w, count: its state has come over from {former}" for former in "cba"]


async def test_an_aggregate_whose_device_is_given_up_begins_anew_and_says_so(mesh: Mesh) -> None:
    mesh.offer("a", 150)
    lanes = [(1.0, dict(zip(COUNTED, "abca", strict=True)), {})]
    await mesh.serve(mesh.assign(COUNTED, lanes, rate=100.0))
    await until(lambda: len(mesh["a"].results()) >= 50, "results come")
    await mesh["c"].supervisor.close()
    without = [(1.0, dict(zip(COUNTED, "abba", strict=True)), {})]
    parts = mesh.assign(
        COUNTED, without, rate=100.0, generation=2, formers={"count": "c"}, lost=["c"]
    )
    del parts["c"]
    await mesh.serve(parts)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    assert check_ledger(mesh["a"].results(), accepted=150) == {"result": 150}
    for counts in counts_by_key(mesh):
        numbers = [one["count"] for one in counts]
        again = numbers.index(0, 1)
        assert numbers == [*range(again), *range(15 - again)], "it begins anew, and counts once"
    said = [text for kind, text in mesh["b"].events if kind == "aggregate-began-anew"]
    assert said == [
        "w, count: its state was reset; requests that no sink confirmed are replayed: c, where it was, is lost"
    ]


async def test_a_sink_moves_in_the_middle_of_a_run(mesh: Mesh) -> None:
    mesh.offer("a", 250)
    lane = {"photos": "a", "upper": "b", "out": "a"}
    await mesh.serve(mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0))
    await until(lambda: len(mesh["a"].results()) >= 60, "results come")
    moved = mesh.assign(CHAIN, [(1.0, {**lane, "out": "c"}, {})], rate=100.0, generation=2)
    await mesh.serve(moved)
    kill(mesh, "a", signal.SIGKILL)
    await until(lambda: mesh.is_finished("a"), "the run finishes")
    both = mesh["a"].results() + mesh["c"].results()
    assert check_ledger(both, accepted=250) == {"result": 250}
    assert len(mesh["c"].results()) > 100


async def test_what_a_lost_sink_had_not_confirmed_is_answered_elsewhere_and_counts_once(
    mesh: Mesh,
) -> None:
    mesh.offer("a", 200)
    lane = {"photos": "a", "upper": "b", "out": "c"}
    first = mesh.assign(CHAIN, [(1.0, lane, {})], rate=100.0)
    await mesh.serve(first)
    await until(lambda: len(mesh["c"].results()) >= 60, "results come")
    kill(mesh, "c", signal.SIGKILL)
    await mesh["c"].supervisor.close()
    parts = mesh.assign(
        CHAIN, [(1.0, {**lane, "out": "b"}, {})], rate=100.0, generation=2, lost=["c"]
    )
    del parts["c"]
    await mesh.serve(parts)
    await until(lambda: mesh.is_finished("a"), "the run finishes before any deadline", 20.0)
    assert {line["outcome"] for line in mesh["b"].results()} == {"result"}
    # As if it had been killed between the disk and the confirmation.
    known = {line["id"] for line in mesh["c"].results()}
    twice = next(line for line in mesh["b"].results() if line["id"] not in known)
    with (mesh["c"].data / "out.jsonl").open("a") as lines:
        lines.write(json.dumps(twice) + "\n")
    mesh["c"].supervisor = mesh["c"].new_supervisor()
    await mesh["c"].supervisor.prepare(first["c"], lambda *_: None)
    await mesh["c"].supervisor.commit("w", 1)

    def ids() -> list[str]:
        return [line["id"] for line in mesh["c"].results()]

    await until(lambda: twice["id"] not in ids(), "what was answered elsewhere is dropped")
    both = mesh["b"].results() + mesh["c"].results()
    assert check_ledger(both, accepted=200) == {"result": 200}
    await until(
        lambda: any(kind == "results-dropped" for kind, _ in mesh["c"].events), "it is told"
    )
    sinks = [s.results for s in mesh["c"].supervisor.figures.sinks]
    await until(
        lambda: [s.results for s in mesh["c"].supervisor.figures.sinks] == [len(ids())],
        f"its counts follow: {sinks}",
    )


async def test_a_worker_writes_down_what_it_serves(mesh: Mesh) -> None:
    mesh.offer("a", 12)
    await mesh.serve(mesh.assign(CHAIN, [(1.0, {"photos": "a", "upper": "b", "out": "a"}, {})]))
    await until(lambda: mesh.is_finished("a"), "all requests have ended")

    def sizes() -> list[dict[int, int]]:
        return [dict(replica.batch_sizes) for replica in mesh["b"].supervisor.figures.replicas]

    await until(lambda: sizes() == [{1: 12}], "the agent knows the sizes of the batches")
    await mesh["b"].supervisor.close()
    lines = (mesh["b"].root / "state" / "logs" / "batches.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    kinds = Counter(entry["entry"] for entry in entries)
    assert kinds == {"replica-loaded": 1, "request": 12, "batch": 12}
    assert set(entries[0]["init_s"]) == {"load", "warm", "self-test"}
    requests = [entry for entry in entries if entry["entry"] == "request"]
    assert {entry["id"] for entry in mesh["a"].results()} == {e["request"] for e in requests}
    assert all(e["latency_s"] == e["departure"] - e["arrival"] >= 0 for e in requests)
