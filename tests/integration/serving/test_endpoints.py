"""Every kind of source and of sink passes the same tests, in the loop of a worker with a source and a sink alone."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from agent.rollout.store import Store
from agent.serving.endpoint_io import kinds
from agent.serving.endpoint_io.data_folder import DataFolder
from agent.serving.endpoint_io.kinds import RequestEnd
from agent.serving.endpoints.attainment import RequestOutcome
from agent.serving.host import Host
from tests.integration.serving import pushed
from tiermesh import limits, wire
from tiermesh.documents import endpoints
from tiermesh.documents.assignment import (
    Assignment,
    Peer,
    ReplicaSpec,
    SinkSpec,
    SourceSpec,
    StageSpec,
)
from tiermesh.documents.plan import Lane
from tiermesh.errors import LimitExceeded, TiermeshError, Unsupported

COUNT = 12
TEXTS = [f"text {i}" for i in range(COUNT)]


def _report(step: str, replica: str, seconds: float) -> None:
    pass


class Device:
    """A device whose worker can be ended and begun again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        self.epoch = 0
        self.notices: list[tuple[str, str]] = []

    @asynccontextmanager
    async def worker(self) -> AsyncGenerator[Host]:
        self.epoch += 1
        host = Host(
            device="a",
            epoch=self.epoch,
            data=DataFolder(self.data),
            state=self.root / "state",
            artifacts=Store(self.root / "store"),
            threads=1,
            slowdown=1.0,
            credentials=wire.LOOPBACK,
            notice=lambda kind, text: self.notices.append((kind, text)),
        )
        try:
            yield host
        finally:
            await host.close()

    @asynccontextmanager
    async def serving(
        self, source: SourceSpec, sink: SinkSpec, **changes: Any
    ) -> AsyncGenerator[Host]:
        async with self.worker() as host:
            given = assignment(source, sink, **changes)
            await host.prepare(given, _report)
            await host.commit("w", given.generation)
            yield host

    def lines(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        path = self.data / name
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]


def assignment(
    source: SourceSpec, sink: SinkSpec, *, generation: int = 1, run: str = "run-1"
) -> Assignment:
    stages = {
        "in": StageSpec(name="in", kind="source", outputs=["out"], source=source),
        "out": StageSpec(name="out", kind="sink", inputs=["in"], sink=sink),
    }
    return Assignment(
        workflow="w",
        generation=generation,
        plan="sha256:" + "0" * 64,
        run=run,
        device="a",
        stages=stages,
        replicas=[ReplicaSpec(id=f"{name}@a", stage=name) for name in stages],
        lanes=[Lane(share=1.0, path={name: f"{name}@a" for name in stages}, backup={})],
        replica_devices={f"{name}@a": "a" for name in stages},
        peers={"a": Peer(device="a", name="a", address="127.0.0.1:1")},
        deadline_seconds=30.0,
    )


async def until(holds: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not within {seconds} s: {what}") from None


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


# Sources


class Given:
    """A kind of source with `COUNT` requests, the i-th of which has `TEXTS[i]` in its payload as `text`."""

    spec: SourceSpec

    def prepare(self, device: Device) -> None:
        """Put there what the source reads."""

    def offer(self, numbers: range) -> None:
        """Offer requests, where the source does not make them."""


class GivenFiles(Given):
    spec = SourceSpec(kind="files", path="in", options={"field": "text"}, rate_rps=500.0)

    def prepare(self, device: Device) -> None:
        (device.data / "in").mkdir(exist_ok=True)
        for i, text in enumerate(TEXTS):
            (device.data / "in" / f"{i:02}.txt").write_text(text)


class GivenLines(Given):
    spec = SourceSpec(kind="jsonl", path="in.jsonl", rate_rps=500.0)

    def prepare(self, device: Device) -> None:
        lines = [json.dumps({"text": text, "numbers": [1, 2.5, None]}) for text in TEXTS]
        (device.data / "in.jsonl").write_text("\n\n".join(lines) + "\n")


class GivenOffers(Given):
    spec = SourceSpec(kind="pushed", rate_rps=500.0)

    def offer(self, numbers: range) -> None:
        for i in numbers:
            pushed.intakes[-1].offer({"text": TEXTS[i], "array": np.arange(i)}, name=f"ask {i}")


@pytest.fixture(params=[GivenFiles, GivenLines, GivenOffers], ids=["files", "jsonl", "pushed"])
def given(request: pytest.FixtureRequest, device: Device, monkeypatch: pytest.MonkeyPatch) -> Given:
    monkeypatch.setitem(kinds.SOURCES, "pushed", pushed.__name__)
    made: Given = request.param()
    made.prepare(device)
    return made


OUT = SinkSpec(kind="jsonl", path="out.jsonl")


def texts(lines: list[dict[str, Any]]) -> list[str]:
    """What was sent, as the sink has it: of bytes it writes the length."""
    return sorted(str(line["payload"]["text"]) for line in lines)


def sent(given: Given) -> list[str]:
    of_bytes = isinstance(given, GivenFiles)
    return sorted(str({"bytes": len(text)}) if of_bytes else text for text in TEXTS)


async def test_each_request_of_a_source_ends_once_with_its_payload(
    given: Given, device: Device
) -> None:
    async with device.serving(given.spec, OUT):
        given.offer(range(COUNT))
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
    assert texts(device.lines()) == sent(given)
    assert {line["outcome"] for line in device.lines()} == {"result"}
    assert len({line["id"] for line in device.lines()}) == COUNT


async def test_a_source_goes_on_after_a_restart_with_what_it_had_accepted(
    given: Given, device: Device
) -> None:
    broken = device.data / "out.jsonl"
    async with device.serving(given.spec, OUT) as host:
        writer = host._endpoints._sinks._open["w", "out"].writer
        # No end of a request is confirmed from now on.
        writer._sink.write = fail  # type: ignore[method-assign]
        given.offer(range(COUNT))
        ledger = host.flows["w"].sources.by_key["run-1.in"].ledger
        await until(lambda: ledger.counts.accepted == COUNT, "all are accepted")
        recorded = ledger.requests
        await until(lambda: all(r.attempt for r in recorded.values()), "all are on disk")
    assert broken.read_bytes() == b""
    async with device.serving(given.spec, OUT) as host:
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
        await until(lambda: not host.flows["w"].sources.by_key["run-1.in"].ledger.in_flight, "told")
    assert texts(device.lines()) == sent(given)


def fail(ends: object, now: float) -> None:
    raise TiermeshError("the disk is gone")


async def test_what_an_earlier_run_had_accepted_is_read_as_by_its_own_kind(
    given: Given, device: Device
) -> None:
    async with device.serving(given.spec, OUT) as host:
        host._endpoints._sinks._open["w", "out"].writer._sink.write = fail  # type: ignore[method-assign]
        given.offer(range(COUNT))
        ledger = host.flows["w"].sources.by_key["run-1.in"].ledger
        await until(lambda: ledger.counts.accepted == COUNT, "all are accepted")
        await until(lambda: all(r.attempt for r in ledger.requests.values()), "all are on disk")
    (device.data / "other").mkdir()
    (device.data / "other" / "one.txt").write_text("x")
    other = SourceSpec(kind="files", path="other", rate_rps=500.0, options={"field": "text"})
    async with device.serving(other, OUT, run="run-2"):
        await until(lambda: len(device.lines()) == COUNT + 1, "those of both runs have ended")
    assert {line["outcome"] for line in device.lines()} == {"result"}


async def test_a_source_of_a_stopped_workflow_is_finished(given: Given, device: Device) -> None:
    async with device.serving(given.spec, OUT) as host:
        given.offer(range(COUNT))
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
        await host.stop("w")
        assert host.flows == {}
        assert pushed.intakes == []


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SourceSpec(kind="files", path="nowhere", rate_rps=1.0), "there is no nowhere"),
        (SourceSpec(kind="jsonl", path="nowhere", rate_rps=1.0), "cannot read nowhere"),
        (SourceSpec(kind="jsonl", path="../secret", rate_rps=1.0), "outside the data folder"),
        (SourceSpec(kind="jsonl", path=["a", "b"], rate_rps=1.0), "the path of one file"),
        (SourceSpec(kind="kafka", rate_rps=1.0), "it knows files, jsonl"),
    ],
)
async def test_a_source_that_cannot_be_served_is_refused_before_anything_runs(
    device: Device, spec: SourceSpec, says: str
) -> None:
    async with device.worker() as host:
        with pytest.raises(TiermeshError, match=says) as caught:
            await host.prepare(assignment(spec, OUT), _report)
        assert caught.value.fields["replica"] == "in@a"
        assert host.flows == {}


def names(device: Device, outcome: str) -> list[str]:
    """The items of the requests that ended so, sorted."""
    lines = [line for line in device.lines() if line["outcome"] == outcome]
    return sorted(str(line["name"]) for line in lines)


def files_of(spec: SourceSpec, numbers: range) -> list[str]:
    return [f"{spec.path}/{i:02}.txt" for i in numbers]


async def accepted(host: Host, count: int) -> None:
    ledger = host.flows["w"].sources.by_key["run-1.in"].ledger
    await until(lambda: ledger.counts.accepted == count and not ledger.in_flight, "all have ended")


async def test_files_that_go_and_come_shift_no_request_after_a_restart(device: Device) -> None:
    files = GivenFiles()
    files.prepare(device)
    half = msgspec.structs.replace(files.spec, count=COUNT // 2)
    async with device.serving(half, OUT) as host:
        await accepted(host, COUNT // 2)
    for name in files_of(half, range(4)) + files_of(half, range(8, 9)):
        (device.data / name).unlink()
    (device.data / "in" / "-1.txt").write_text("new")
    async with device.serving(files.spec, OUT) as host:
        await accepted(host, COUNT + 1)
    gone = files_of(files.spec, range(8, 9))
    assert names(device, "error") == gone
    whole = [*files_of(files.spec, range(COUNT)), "in/-1.txt"]
    assert names(device, "result") == sorted(set(whole) - set(gone))


async def test_files_that_come_in_mid_run_are_sent_once_after_the_others_in_the_next_generation(
    device: Device,
) -> None:
    files = GivenFiles()
    files.prepare(device)
    async with device.serving(files.spec, OUT) as host:
        await accepted(host, COUNT)
        for i in range(5):
            (device.data / "in" / f"-{i}.txt").write_text("new")
        await host.prepare(assignment(files.spec, OUT, generation=2), _report)
        await host.commit("w", 2)
        await accepted(host, COUNT + 5)
    news = [f"in/-{i}.txt" for i in range(5)]
    assert names(device, "result") == sorted(news + files_of(files.spec, range(COUNT)))
    assert [line["name"] for line in device.lines()][-5:] == news


async def test_a_source_that_has_nothing_to_send_is_said_to_have_nothing(device: Device) -> None:
    (device.data / "in" / "only folders").mkdir(parents=True)
    (device.data / "in" / ".hidden").write_text("x")
    (device.data / "in.jsonl").write_text("\n  \n")
    for name, kind in (("in", "files"), ("in.jsonl", "jsonl")):
        device.notices.clear()
        async with device.serving(SourceSpec(kind=kind, path=name, rate_rps=1.0), OUT):
            told = ("source-empty", f"w, in: there is nothing to send in {name}")
            await until(lambda told=told: told in device.notices, "people are told")


async def test_a_source_that_has_something_to_send_says_nothing(
    given: Given, device: Device
) -> None:
    async with device.serving(given.spec, OUT):
        given.offer(range(COUNT))
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
    assert device.notices == []


async def test_a_line_that_is_no_request_ends_in_an_error_that_names_it(device: Device) -> None:
    (device.data / "in.jsonl").write_text('{"a": 1}\n[2]\n\nno\n')
    async with device.serving(SourceSpec(kind="jsonl", path="in.jsonl", rate_rps=500.0), OUT):
        await until(lambda: len(device.lines()) == 3, "all have ended")
    errors = sorted(line["error"] for line in device.lines() if line["outcome"] == "error")
    assert "in.jsonl:2 is not a request" in errors[0]
    assert "in.jsonl:4 is not a request" in errors[1]
    assert all("one JSON object a line" in error for error in errors)


def broken_for(real: Callable[..., Any], is_broken: Callable[[Any], bool]) -> Callable[..., Any]:
    """A function that raises what nobody foresees, for some arguments."""

    def call(given: Any) -> Any:
        if is_broken(given):
            raise UnicodeError("nobody foresaw this")
        return real(given)

    return call


async def test_a_file_whose_name_is_not_utf_8_ends_in_an_error_and_the_others_in_results(
    device: Device,
) -> None:
    files = GivenFiles()
    files.prepare(device)
    (device.data / "in" / os.fsdecode(b"05caf\xe9.txt")).write_text("x")
    async with device.serving(files.spec, OUT) as host:
        await until(lambda: len(device.lines()) == COUNT + 1, "all have ended")
        ledger = host.flows["w"].sources.by_key["run-1.in"].ledger
        await until(lambda: not ledger.in_flight, "told")
    (error,) = [line for line in device.lines() if line["outcome"] == "error"]
    assert (error["name"], "its name is not UTF-8" in error["error"]) == (r"in/05caf\xe9.txt", True)
    assert texts([line for line in device.lines() if line is not error and "payload" in line]) == (
        sent(files)
    )


async def test_a_request_whose_reading_fails_as_nobody_foresaw_ends_in_an_error(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = GivenFiles()
    files.prepare(device)
    real = DataFolder.read

    def read(self: DataFolder, name: str) -> bytes:
        return bytes(broken_for(lambda n: real(self, n), lambda n: "07" in n)(name))

    monkeypatch.setattr(DataFolder, "read", read)
    async with device.serving(files.spec, OUT):
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
    (error,) = [line for line in device.lines() if line["outcome"] == "error"]
    assert error["name"] == "in/07.txt"
    assert "UnicodeError: nobody foresaw this" in error["error"]


async def test_of_requests_that_are_kept_together_only_the_one_that_cannot_be_kept_fails(
    device: Device, push: SourceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with device.serving(push, OUT) as host:
        spool = host._endpoints._sources._serving["w", "run-1.in"].spool
        broken = broken_for(spool.accept, lambda rs: any(r.item == "ask 3" for r in rs))
        monkeypatch.setattr(spool, "accept", broken)
        offers = [pushed.intakes[-1].offer({"n": i}, name=f"ask {i}") for i in range(COUNT)]
        told = await asyncio.gather(*map(asyncio.wrap_future, offers), return_exceptions=True)
        await until(lambda: len(device.lines()) == COUNT, "all have ended")
        ledger = host.flows["w"].sources.by_key["run-1.in"].ledger
        await until(lambda: not ledger.in_flight, "told")
    assert [i for i, one in enumerate(told) if isinstance(one, Exception)] == [3]
    (error,) = [line for line in device.lines() if line["outcome"] == "error"]
    assert (error["name"], "nobody foresaw" in error["error"]) == ("ask 3", True)


async def test_a_request_that_cannot_be_forgotten_still_tells_how_it_ended(
    device: Device, push: SourceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[RequestEnd] = []
    async with device.serving(push, OUT) as host:
        spool = host._endpoints._sources._serving["w", "run-1.in"].spool
        monkeypatch.setattr(spool, "forget", broken_for(spool.forget, lambda _: True))
        pushed.intakes[-1].offer({"n": 1}, ended=ends.append)
        await until(lambda: bool(ends), "it has ended")
        told = ("source-disk-failed", "w, run-1.in: UnicodeError: nobody foresaw this")
        await until(lambda: told in device.notices, "people are told")


async def test_an_offer_whose_name_is_not_utf_8_is_served(device: Device, push: SourceSpec) -> None:
    async with device.serving(push, OUT):
        name = os.fsdecode(b"caf\xe9")
        await asyncio.wrap_future(pushed.intakes[-1].offer({"n": 1}, name=name))
        await until(lambda: len(device.lines()) == 1, "it has ended")
    assert device.lines()[0]["outcome"] == "result"


# Offers from outside


@pytest.fixture
def push(monkeypatch: pytest.MonkeyPatch) -> SourceSpec:
    monkeypatch.setitem(kinds.SOURCES, "pushed", pushed.__name__)
    return SourceSpec(kind="pushed", rate_rps=100.0)


async def test_whoever_offers_a_request_gets_its_id_once_it_is_on_disk_and_then_its_result(
    device: Device, push: SourceSpec
) -> None:
    ends: list[RequestEnd] = []
    async with device.serving(push, SinkSpec(kind="reply")) as host:
        accepted = pushed.intakes[-1].offer({"text": "hello", "n": 3}, ended=ends.append)
        request_id = await asyncio.wrap_future(accepted)
        spool = host._endpoints._sources._serving["w", "run-1.in"].spool
        await until(lambda: bool(ends), "it has ended")
        assert spool.load()[1].accepted == 1
    ((end),) = ends
    assert (end.request_id, end.outcome) == (request_id, RequestOutcome.RESULT)
    assert end.results["out"].values == {"text": "hello", "n": 3}


async def test_a_sink_that_returns_nothing_still_tells_how_a_request_ended(
    device: Device, push: SourceSpec
) -> None:
    ends: list[RequestEnd] = []
    async with device.serving(push, OUT):
        await asyncio.wrap_future(pushed.intakes[-1].offer({"n": 1}, ended=ends.append))
        await until(lambda: bool(ends), "it has ended")
    assert (ends[0].outcome, ends[0].results) == (RequestOutcome.RESULT, {})


async def test_an_answer_that_fails_ends_nothing_else(device: Device, push: SourceSpec) -> None:
    def broken(end: RequestEnd) -> None:
        raise RuntimeError("the asker is gone")

    async with device.serving(push, OUT):
        await asyncio.wrap_future(pushed.intakes[-1].offer({"n": 1}, ended=broken))
        await asyncio.wrap_future(pushed.intakes[-1].offer({"n": 2}))
        await until(lambda: len(device.lines()) == 2, "both have ended")


async def test_beyond_what_may_wait_offers_are_refused_and_what_is_accepted_ends(
    device: Device, push: SourceSpec
) -> None:
    async with device.serving(push, OUT):
        offers: list[Future[str]] = [
            pushed.intakes[-1].offer({"n": i}) for i in range(2 * limits.SOURCE_OFFERED_REQUESTS)
        ]
        results = await asyncio.gather(*map(asyncio.wrap_future, offers), return_exceptions=True)
        accepted = {one for one in results if isinstance(one, str)}
        refused = [one for one in results if isinstance(one, LimitExceeded)]
        assert len(accepted) + len(refused) == len(offers)
        assert len(accepted) >= limits.SOURCE_OFFERED_REQUESTS
        await until(lambda: len(device.lines()) == len(accepted), "all accepted ones have ended")
    assert {line["id"] for line in device.lines()} == accepted


async def test_what_cannot_be_sent_and_what_comes_too_late_is_refused(
    device: Device, push: SourceSpec
) -> None:
    async with device.serving(push, OUT) as host:
        intake = pushed.intakes[-1]
        with pytest.raises(TiermeshError, match="cannot be packed"):
            await asyncio.wrap_future(intake.offer({"n": object()}))
        host.flows["w"].stop()
        with pytest.raises(LimitExceeded, match="stopped"):
            await asyncio.wrap_future(intake.offer({"n": 1}))
        await host.stop("w")
        with pytest.raises(TiermeshError, match="stopped"):
            await asyncio.wrap_future(intake.offer({"n": 2}))


async def test_a_push_source_goes_on_in_the_next_generation(
    device: Device, push: SourceSpec
) -> None:
    async with device.serving(push, OUT) as host:
        intake = pushed.intakes[-1]
        await asyncio.wrap_future(intake.offer({"n": 1}))
        given = assignment(push, OUT, generation=2)
        await host.prepare(given, _report)
        await host.commit("w", 2)
        assert pushed.intakes == [intake]
        await asyncio.wrap_future(intake.offer({"n": 2}))
        await until(lambda: len(device.lines()) == 2, "both have ended")


# Sinks


SINKS = {
    "jsonl": OUT,
    "callback": SinkSpec(kind="callback"),
    "files": SinkSpec(kind="files", path="out"),
    "reply": SinkSpec(kind="reply"),
}


@pytest.fixture(params=SINKS)
def sink(request: pytest.FixtureRequest) -> SinkSpec:
    return SINKS[request.param]


def record(device: Device, sink: SinkSpec) -> list[dict[str, Any]]:
    state = device.root / "state" / "sinks" / "w" / "out.jsonl"
    path = device.data / "out.jsonl" if sink.kind == "jsonl" else state
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_request_ends_once_at_a_sink_over_a_restart(
    device: Device, sink: SinkSpec
) -> None:
    lines = GivenLines()
    lines.prepare(device)
    async with device.serving(lines.spec, sink) as host:
        await until(lambda: host.flows["w"].sinks["out"].counts.results == COUNT, "all have ended")
    async with device.serving(lines.spec, sink) as host:
        state = host.flows["w"].sinks["out"]
        assert state.counts.results == COUNT, "it remembers"
        assert all(state.has_written(line["id"]) for line in record(device, sink))
    assert len({line["id"] for line in record(device, sink)}) == COUNT


async def test_a_sink_that_cannot_write_delays_and_loses_nothing(
    device: Device, sink: SinkSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.serving.endpoint_io.sink_writer._RETRY_S", 0.01)
    lines = GivenLines()
    lines.prepare(device)
    async with device.serving(lines.spec, sink) as host:
        endpoint = host._endpoints._sinks._open["w", "out"].writer._sink
        real, endpoint.write = endpoint.write, fail  # type: ignore[method-assign]
        await until(lambda: ("sink-blocked", "w, out: the disk is gone") in device.notices, "told")
        endpoint.write = real  # type: ignore[method-assign]
        await until(lambda: host.flows["w"].sinks["out"].counts.results == COUNT, "all have ended")
    assert len(record(device, sink)) == COUNT


async def test_a_worker_whose_sink_can_write_nothing_at_all_does_not_live_on(
    device: Device, push: SourceSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: failures.append(str(context["exception"]))
    )
    async with device.serving(push, OUT) as host:
        endpoint = host._endpoints._sinks._open["w", "out"].writer._sink

        def write(ends: object, now: float) -> None:
            raise UnicodeError("nobody foresaw this")

        monkeypatch.setattr(endpoint, "write", write)
        pushed.intakes[-1].offer({"n": 1})
        await until(lambda: bool(failures), "the event loop, which ends the worker, is told")
    assert failures == ["the thread of the sink w, out has failed"]


def test_what_a_sink_takes_back_has_not_ended_there(tmp_path: Path, sink: SinkSpec) -> None:
    from agent.serving.endpoint_io.kinds import SinkPlace, sink_kind
    from agent.serving.instructions import Write
    from tiermesh.frames import Frame, Kind, pack

    place = SinkPlace(DataFolder(tmp_path), tmp_path / "state.jsonl")
    opened = sink_kind(sink.kind).open(sink, place)
    assert opened.recover("run")[0] == {}
    ids = [f"{i:032x}" for i in range(3)]
    payload = pack({"text": "t", "blob": b"abc", "array": np.arange(6).reshape(2, 3)})
    frames = [Frame(Kind.DATA, 1, 0, i, 1, "in", "out", payload=payload) for i in ids]
    ends = [Write("out", "run", frame) for frame in frames]
    opened.write(ends[:2], 1.0)
    opened.write(ends[2:], 2.0)
    assert opened.drop(ids[:1], "run") == {ids[0]: Kind.DATA}
    opened.close()
    again = sink_kind(sink.kind).open(sink, place)
    known, counts = again.recover("run")
    again.close()
    assert list(known) == ids[1:]
    assert counts.results == 2
    names = {file.name.partition(".")[0] for file in tmp_path.glob("out/*")}
    assert names == (set(ids[1:]) if sink.kind == "files" else set())


async def test_a_folder_of_results_has_values_that_can_be_read_again(
    device: Device, push: SourceSpec
) -> None:
    async with device.serving(push, SINKS["files"]) as host:
        array = np.arange(6, dtype=np.float32).reshape(2, 3)
        payload = {"name": "a/b", "blob": b"\0" * 5_000, "a/rr": array, "n": 7}
        request = await asyncio.wrap_future(pushed.intakes[-1].offer(payload))
        await until(lambda: host.flows["w"].sinks["out"].counts.results == 1, "it has ended")
    folder = device.data / "out"
    assert sorted(file.name.removeprefix(request) for file in folder.iterdir()) == [
        ".a_rr.npy", ".blob.bin", ".json",
    ]  # fmt: skip
    assert np.array_equal(np.load(folder / f"{request}.a_rr.npy"), array)
    assert (folder / f"{request}.blob.bin").read_bytes() == payload["blob"]
    told = json.loads((folder / f"{request}.json").read_text())
    assert (told["outcome"], told["payload"]["n"], told["name"]) == ("result", 7, "a/b")


async def test_a_sink_goes_on_in_the_same_place_only(device: Device) -> None:
    lines = GivenLines()
    lines.prepare(device)
    async with device.serving(lines.spec, OUT) as host:
        moved = assignment(lines.spec, SinkSpec(kind="jsonl", path="new.jsonl"), generation=2)
        with pytest.raises(TiermeshError, match="cannot go on in another place"):
            await host.prepare(moved, _report)


def test_every_kind_of_the_workflow_file_has_its_module_and_the_other_way_round() -> None:
    assert set(kinds.SOURCES) == set(endpoints.SOURCES)
    assert set(kinds.SINKS) == set(endpoints.SINKS)
    for name in kinds.SOURCES:
        assert kinds.source_kind(name) is not None
    for name in kinds.SINKS:
        assert kinds.sink_kind(name).returns_results == (name == "reply")
    with pytest.raises(Unsupported, match="it knows jsonl, callback, files, reply"):
        kinds.sink_kind("fax")
