"""Measuring variants in a process of its own: what works, and what can go wrong there."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import msgspec
import pytest

from agent.errors import MeasurementFailed
from agent.profiling import fingerprint
from agent.profiling.measuring import measure
from agent.profiling.messages import CannotRun, MeasureProgress, MeasureRequest, MeasureResult
from agent.profiling.service import ProfilingService
from agent.rollout.store import Store
from tests.doubler import CODE, linear_model
from tiermesh import wire
from tiermesh.documents.profile import Profile
from tiermesh.documents.reading import decode_json, encode_json
from tiermesh.documents.variant import Variant
from tiermesh.errors import LimitExceeded, TiermeshError
from tiermesh.v1 import profiling_pb2 as pb
from tiermesh.v1.profiling_pb2_grpc import ProfilingStub, add_ProfilingServicer_to_server

if TYPE_CHECKING:
    from tiermesh.v1.profiling_pb2_grpc import ProfilingAsyncStub

MakeVariant = Callable[..., Variant]
HANGS = CODE.replace("def samples(self):", "def samples(self):\n        while True: pass")


def asked(store: Store, variant: Variant, **changed: object) -> MeasureRequest:
    usual = MeasureRequest(
        variant=variant,
        store=str(store.root),
        batch_sizes=[1, 3],
        threads=[1],
        time_limit_seconds=20,
        interval=0.1,
        min_repeats=5,
        max_repeats=30,
    )
    return msgspec.structs.replace(usual, **changed)


async def measured(ask: MeasureRequest) -> MeasureResult:
    result = await measure(ask, lambda _: None)
    assert isinstance(result, MeasureResult), result
    return result


async def refused(ask: MeasureRequest, grace_seconds: float = 10.0) -> str:
    result = await measure(ask, lambda _: None, grace_seconds=grace_seconds)
    assert isinstance(result, CannotRun), result
    return result.why


async def test_a_variant_is_measured_with_progress(store: Store, make_variant: MakeVariant) -> None:
    told: list[MeasureProgress] = []
    result = await measure(asked(store, make_variant(), threads=[1, 2]), told.append)
    assert isinstance(result, MeasureResult), result
    settings = [(point.threads, point.batch_size) for point in result.points]
    assert settings == [(1, 1), (1, 3), (2, 1), (2, 3)]
    for point in result.points:
        assert 5 <= point.samples <= 30
        assert 0 < point.seconds.p50 <= point.seconds.p99
        assert point.items_per_second == pytest.approx(point.batch_size / point.seconds.mean)
    assert result.items_per_request == 1.5
    assert result.request_items == [2, 1]
    assert result.pause_seconds == 0.02
    peaks = [point.peak_memory_bytes for point in result.points]
    assert peaks == sorted(peaks)
    assert 0 < peaks[0] <= peaks[-1] <= result.peak_memory_bytes
    # Two answers: 2 rows and 1 row of 8 bytes, and some JSON around them.
    assert 12 < result.bytes_out_per_request < 100
    assert result.load_seconds > 0
    assert result.peak_memory_bytes >= 0
    assert [p.done for p in told] == sorted(p.done for p in told)
    assert "batch 3, 2 threads: " in told[-1].doing


async def test_memory_counts_what_the_model_takes(store: Store, make_variant: MakeVariant) -> None:
    width = 2_000
    row = ", ".join(["1.0"] * width)
    code = CODE.replace("[[1.0, 2.0], [3.0, 4.0]]", f"[[{row}]]").replace(
        "[[5.0, 6.0]]", f"[[{row}]]"
    )
    code = code.replace("return None if found == wanted else", "return None if found else")
    model = linear_model([[1.0] * width for _ in range(width)])
    small = await measured(asked(store, make_variant()))
    large = await measured(asked(store, make_variant(code, model=model)))
    assert large.peak_memory_bytes - small.peak_memory_bytes > 0.8 * 4 * width**2


async def test_an_emulated_device_is_slower_and_not_waited_for(
    store: Store, make_variant: MakeVariant
) -> None:
    code = CODE.replace('return {"rows"', 'sum(range(40_000)); return {"rows"')
    begun = time.perf_counter()
    slow = await measured(asked(store, make_variant(code), batch_sizes=[1], slowdown=100_000.0))
    took = time.perf_counter() - begun
    assert slow.points[0].samples >= 5
    assert slow.points[0].samples * slow.points[0].seconds.mean > 10 * took


async def test_what_stage_code_prints_stays_out_of_the_answers(
    store: Store, make_variant: MakeVariant
) -> None:
    code = CODE + "\nimport os\nprint('hello')\nos.write(1, b'{\"answer\": \"x\"}\\n')\n"
    assert (await measured(asked(store, make_variant(code)))).points


async def test_stage_code_is_part_of_the_time_of_a_batch(
    store: Store, make_variant: MakeVariant
) -> None:
    """Its time is measured of single requests: a batch of a thousand need not be waited for."""
    slow = CODE.replace('return {"rows"', '__import__("time").sleep(0.02); return {"rows"')
    one, many = (await measured(asked(store, make_variant(slow), batch_sizes=[1, 1024]))).points
    # Two requests of 2 rows and 1 row: 0.02 s each.
    assert one.seconds.mean > 0.04 / 3
    assert many.seconds.mean == pytest.approx(1024 * one.seconds.mean, rel=0.2)


async def test_what_is_certain_to_be_beaten_is_measured_coarsely(
    store: Store, make_variant: MakeVariant
) -> None:
    ask = asked(store, make_variant(), interval=1e-4, min_repeats=30, to_beat_seconds=[1e-7, 1e3])
    beaten, best = (await measured(ask)).points
    assert best.samples == 30
    assert 3 <= beaten.samples < 30
    assert beaten.interval < 1


async def test_a_quota_slows_what_it_would_stop(store: Store, make_variant: MakeVariant) -> None:
    result = await measured(asked(store, make_variant(), batch_sizes=[1], quota_cores=1e-3))
    point = result.points[0]
    assert result.cpu_quota_cores == 1e-3
    assert point.seconds.mean == pytest.approx(1000 * point.cpu_seconds, rel=1e-6)
    assert point.items_per_second == pytest.approx(1 / point.seconds.mean)
    assert point.seconds.p99 >= point.seconds.mean


async def test_what_others_took_meanwhile_is_told(store: Store, make_variant: MakeVariant) -> None:
    result = await measured(asked(store, make_variant()))
    if not Path("/proc/thread-self/schedstat").exists() and not Path("/proc/stat").exists():
        pytest.skip("this kernel does not count waits")
    assert 0 <= result.disturbed <= 1
    assert result.other_load_cores >= 0


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", "does not import. ModuleNotFoundError"),
        (CODE.replace('return {"rows"', 'raise KeyError("glyph"); return {"rows"'), "'glyph'"),
        (CODE.replace("[6.0, 8.0]", "[6.0, 9.0]"), "the self-test fails on this device. sample 0"),
        (CODE.replace('for row in payload["rows"]]', "for row in []]"), "the self-test fails"),
        (CODE + "\nimport os\nos._exit(7)", "it ended with code 7, during: load"),
        (CODE + "\nimport os\nos.abort()", "it crashed with SIGABRT, during: load"),
        (CODE + "\nimport os\nos.kill(os.getpid(), 9)", "killed, probably out of memory"),
        (CODE + "\nimport sys\nsys.exit('enough')", "it ended with code 1, during: load, 1 thread"),
        (CODE + "\nraise MemoryError", "MemoryError"),
    ],
)
async def test_what_cannot_run_says_why(
    store: Store, make_variant: MakeVariant, code: str, why: str
) -> None:
    assert why in await refused(asked(store, make_variant(code)))


async def test_a_missing_runtime_or_module_says_so(store: Store, make_variant: MakeVariant) -> None:
    assert "there is no runtime 'abacus'" in await refused(
        asked(store, make_variant(runtime="abacus"))
    )
    assert "modules not installed on this device: no_such" in await refused(
        asked(store, make_variant(requires=("no_such",)))
    )


async def test_what_never_ends_is_ended(store: Store, make_variant: MakeVariant) -> None:
    ask = asked(store, make_variant(HANGS), time_limit_seconds=1.0)
    with pytest.raises(MeasurementFailed, match="no result within 1 s"):
        await measure(ask, lambda _: None, grace_seconds=1.0)


async def test_too_little_time_says_nothing_about_the_device(
    store: Store, make_variant: MakeVariant
) -> None:
    slow = CODE.replace('return {"rows"', '__import__("time").sleep(0.3); return {"rows"')
    with pytest.raises(TiermeshError, match="no batch could be measured") as raised:
        await measure(asked(store, make_variant(slow), time_limit_seconds=0.1), lambda _: None)
    assert raised.value.kind == "measurement-failed"


async def test_a_process_that_cannot_start_says_nothing_about_the_device(
    store: Store, make_variant: MakeVariant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "msgspec.py").write_text("raise ImportError('half installed')")
    path = f"{tmp_path / 'broken'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)
    with pytest.raises(MeasurementFailed, match=r"did not start.*half installed"):
        await measured(asked(store, make_variant()))


async def test_an_error_of_this_program_says_nothing_about_the_device(
    store: Store, make_variant: MakeVariant
) -> None:
    ask = asked(store, make_variant())
    store.remove(ask.variant.artifacts[0].digest)
    with pytest.raises(TiermeshError):
        await measured(ask)


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def noting(pid_file: Path) -> str:
    """Stage code that writes its process id and then never ends."""
    return (
        f"import os, pathlib\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\n"
        + HANGS
    )


async def until(condition: Callable[[], object]) -> None:
    """Another process has no event to wait on."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def pid_in(file: Path) -> int:
    await until(lambda: file.exists() and file.read_text())
    return int(file.read_text())


async def test_cancelling_kills_the_process(
    store: Store, make_variant: MakeVariant, tmp_path: Path
) -> None:
    ask = asked(store, make_variant(noting(tmp_path / "pid")))
    task = asyncio.create_task(measure(ask, lambda _: None))
    pid = await pid_in(tmp_path / "pid")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pid)


async def test_the_process_dies_with_its_agent(
    store: Store, make_variant: MakeVariant, tmp_path: Path
) -> None:
    ask = asked(store, make_variant(noting(tmp_path / "pid")))
    (tmp_path / "ask").write_bytes(msgspec.json.encode(ask))
    agent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import asyncio, msgspec, pathlib, sys\n"
        "from agent.profiling.measuring import MeasureRequest, measure\n"
        "ask = msgspec.json.decode(pathlib.Path(sys.argv[1]).read_bytes(), type=MeasureRequest)\n"
        "asyncio.run(measure(ask, str))\n",
        str(tmp_path / "ask"),
    )
    pid = await pid_in(tmp_path / "pid")
    agent.kill()
    await agent.wait()
    await until(lambda: gone(pid))


@pytest.fixture
async def stub(store: Store) -> AsyncIterator[ProfilingAsyncStub]:
    server = wire.server(wire.LOOPBACK)
    service = ProfilingService("cam-1", fingerprint.take(1, 2.0), store, now=lambda: 0.0)
    add_ProfilingServicer_to_server(service, server)
    port = wire.bind(server, wire.LOOPBACK, "127.0.0.1", 0)
    await server.start()
    async with wire.channel(wire.LOOPBACK, f"127.0.0.1:{port}", wire.ANY_AGENT) as channel:
        yield ProfilingStub(channel)
    await server.stop(None)


async def events(
    stub: ProfilingAsyncStub, variant: Variant, sizes: Sequence[int] = (1,), threads: int = 1
) -> list[pb.ProfileEvent]:
    request = pb.ProfileRequest(
        variant=encode_json(variant), batch_sizes=sizes, threads=[threads], max_repeats=5
    )
    try:
        return [event async for event in stub.Profile(request)]
    except grpc.aio.AioRpcError as error:
        raise wire.raised_by(error, "cam-1") from None


async def test_a_profile_over_the_wire(stub: ProfilingAsyncStub, make_variant: MakeVariant) -> None:
    variant = make_variant()
    *progress, last = await events(stub, variant)
    assert all(event.WhichOneof("event") == "progress" for event in progress)
    profile = decode_json(last.profile, Profile, "the profile")
    assert (profile.device, profile.variant_digest) == ("cam-1", variant.digest)
    assert profile.device_class == fingerprint.take(1, 2.0).device_class
    assert profile.measured_at == "1970-01-01T00:00:00+00:00"
    assert profile.emulated is not None
    assert profile.cannot_run is None
    assert [(p.batch_size, p.threads) for p in profile.points] == [(1, 1)]


async def test_a_profile_of_what_cannot_run(
    stub: ProfilingAsyncStub, make_variant: MakeVariant
) -> None:
    last = (await events(stub, make_variant(runtime="abacus")))[-1]
    profile = decode_json(last.profile, Profile, "the profile")
    assert profile.points == []
    assert "there is no runtime 'abacus'" in (profile.cannot_run or "")


async def test_missing_artifacts_are_an_error(
    stub: ProfilingAsyncStub, store: Store, make_variant: MakeVariant
) -> None:
    variant = make_variant()
    store.remove(variant.bundle.artifact.digest)
    with pytest.raises(TiermeshError, match="1 artifacts of the variant fp32 are not on this") as e:
        await events(stub, variant)
    assert e.value.fields["missing"] == [variant.bundle.artifact.digest]


@pytest.mark.parametrize(("sizes", "threads"), [([0], 1), ([2**20], 1), ([1], 4096)])
async def test_asking_for_too_much_is_refused(
    stub: ProfilingAsyncStub, make_variant: MakeVariant, sizes: list[int], threads: int
) -> None:
    with pytest.raises(LimitExceeded, match="cannot measure"):
        await events(stub, make_variant(), sizes, threads)


async def test_one_at_a_time_and_a_cancelled_call_frees_the_device(
    stub: ProfilingAsyncStub, make_variant: MakeVariant, tmp_path: Path
) -> None:
    stuck = make_variant(noting(tmp_path / "pid"))
    first = stub.Profile(pb.ProfileRequest(variant=encode_json(stuck), batch_sizes=[1]))
    assert (await anext(aiter(first))).progress.doing.startswith("load")
    pid = await pid_in(tmp_path / "pid")
    second = stub.Profile(
        pb.ProfileRequest(variant=encode_json(make_variant()), batch_sizes=[1], max_repeats=5)
    )
    waiting = aiter(second)
    assert "waiting for another" in (await anext(waiting)).progress.doing
    first.cancel()
    last = [event async for event in waiting][-1]
    assert decode_json(last.profile, Profile, "the profile").points
    assert gone(pid)
