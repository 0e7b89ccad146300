"""The commands as scripts use them: one JSON document, progress elsewhere, exit codes that mean something."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from coordinator.cli import main
from tiermesh import wire
from tiermesh.errors import StorageFull, Unsupported
from tiermesh.v1 import telemetry_pb2 as pb

ROOT = Path(__file__).parents[3]
WORKFLOW = """
workflow: read
slo: {rate: 4/s}
stages:
  photos: {source: files, path: signs/, rate: 4/s}
  detect: {model: ocr-detect, from: photos}
  text: {sink: jsonl, path: out/text.jsonl, from: detect}
"""


def named(agents):
    return [word for agent in agents for word in ("--device", agent.address)]


async def test_a_script_goes_from_devices_to_a_served_plan(coordinator, two, folder):
    found = await coordinator("devices", *named(two), "--no-browse", "--expect", 2, "--json")
    assert found.code == 0, found.err
    assert [d["name"] for d in found.document["devices"]] == ["cam-1", "hub-1"]
    assert [d["battery"] for d in found.document["devices"]] == [None, None]

    profiled = await coordinator("profile", "read.yaml", "--no-browse", "--json")
    assert profiled.code == 0, profiled.err
    assert len(profiled.document["profiles"]) == 4
    assert "cam-1 ocr-detect/v3: measured" in profiled.err

    written = await coordinator(
        "profiles", "ocr-detect/v3", "--on", "cam-1", "-o", "profile.json", "--json"
    )
    assert written.code == 0, written.err
    asked = ("--rate", 1, "--service", "profile.json", "--latency-slo", 60)
    assert (await coordinator("batching", *asked, "--json")).code == 0

    planned = await coordinator("plan", "read.yaml", "-o", "plan.json", "--no-browse", "--json")
    assert planned.code == 0, planned.err
    assert planned.document["workflow"] == "read"

    tried = await coordinator("apply", "plan.json", "--dry-run", "--no-browse", "--json")
    assert tried.code == 0, tried.err
    assert all(part["lacking_bytes"] == 0 for part in tried.document["parts"])
    assert "prepare" not in two[0].calls + two[1].calls

    applied = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert applied.code == 0, applied.err
    assert applied.document["outcome"] == "committed"
    assert applied.document["generation"] == 1

    again = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert again.document["unchanged"] is True

    told = await coordinator("events", "--json", "--kind", "rollout-committed")
    assert told.code == 0, told.err
    assert {e["about"] for e in told.document["events"]} <= {"cam-1", "hub-1"}
    started = (await coordinator("events", "--json", "--kind", "rollout-started")).document
    assert started["events"][0]["who"]
    assert started["events"][0]["details"]["generation"] == 1


async def test_a_failed_rollout_exits_with_4_and_says_why(coordinator, planned):
    planned[0].fail["prepare"] = StorageFull("the disk is full", fix="Free some space")
    failed = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert failed.code == 4
    assert failed.document["outcome"] == "aborted"
    assert "the disk is full" in failed.document["failures"]["cam-1"]
    assert "the disk is full" in failed.err
    events = await coordinator("events", "--kind", "rollout-failed")
    assert "the disk is full" in events.out


async def test_a_plan_for_another_fleet_is_refused_with_the_change(coordinator, planned):
    planned[1].price = 9.0
    refused = await coordinator("apply", "plan.json", "--no-browse", "--json")
    assert refused.code == 1
    assert refused.document["error"]["kind"] == "digest-mismatch"
    assert "device hub-1: price_per_hour was 0.1, is 9.0" in refused.document["error"]["why"]
    assert "prepare" not in planned[0].calls + planned[1].calls


async def test_an_edited_workflow_makes_the_plan_stale(coordinator, planned, folder):
    (folder / "read.yaml").write_text(WORKFLOW.replace("slo: {rate: 4/s}", "slo: {rate: 3/s}"))
    refused = await coordinator(
        "apply", "plan.json", "--workflow", "read.yaml", "--no-browse", "--json"
    )
    assert refused.code == 1
    assert "another version of the workflow" in refused.document["error"]["what"]


async def test_what_cannot_be_met_exits_with_3(coordinator, planned, folder):
    (folder / "read.yaml").write_text(WORKFLOW.replace("4/s", "4000/s"))
    infeasible = await coordinator("plan", "read.yaml", "--no-browse", "--json")
    assert infeasible.code == 3, infeasible.err
    assert infeasible.document["error"]["kind"] == "infeasible"


async def test_an_unreachable_device_is_named_with_its_reason(coordinator, two):
    closed = f"127.0.0.1:{wire.free_port()}"
    found = await coordinator("devices", *named(two), "--device", closed, "--no-browse", "--json")
    assert found.code == 1
    (unreachable,) = found.document["unreachable"]
    assert unreachable["address"] == closed
    assert "refused" in unreachable["failures"][0]
    assert "does not answer" in found.err


async def test_hostile_names_are_printed_as_they_are(coordinator, serve, fake_agent):
    await serve.start(evil := fake_agent("dev-1", name="[red]\x1b[31m;rm -rf[/red]", tier="hub"))
    found = await coordinator("devices", "--device", evil.address, "--no-browse")
    assert found.code == 0
    assert "\x1b[31m" not in found.out
    assert "red" in found.out


@pytest.mark.parametrize(
    ("workflow", "field"),
    [
        (WORKFLOW.replace("model: ocr-detect", "modle: ocr-detect"), "$.stages.detect"),
        (WORKFLOW.replace("from: photos", "from: text"), "$.stages"),
        (WORKFLOW.replace("rate: 4/s}", "rate: 4}"), "rate"),
        ("workflow: [", "$"),
    ],
)
async def test_a_wrong_workflow_exits_with_2(coordinator, two, folder, workflow, field):
    (folder / "bad.yaml").write_text(workflow)
    refused = await coordinator("plan", "bad.yaml", *named(two), "--no-browse", "--json")
    assert refused.code == 2
    assert refused.document["error"]["kind"] == "invalid-document"
    assert field in refused.document["error"]["path"]


@pytest.mark.parametrize(
    "words",
    [
        "apply",
        "events --kind no-such-kind",
        "profile --batch-sizes none",
        "plan x --source-bytes y",
    ],
)
def test_misuse_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_following_and_json_exclude_each_other(capsys):
    assert main(["events", "--follow", "--json"]) == 2
    assert "exclude each other" in json.loads(capsys.readouterr().out)["error"]["what"]


@pytest.mark.parametrize("command", ["devices", "profile", "plan", "apply", "status", "events"])
def test_each_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"  coordinator {command}" in capsys.readouterr().out


async def test_status_tells_measured_against_predicted(coordinator, planned):
    applied = (await coordinator("apply", "plan.json", "--no-browse", "--json")).document
    assert applied["outcome"] == "committed"
    replicas = json.loads((await coordinator("events", "--json", "--kind", "plan-made")).out)[
        "events"
    ][-1]["details"]["plan"]["replicas"]
    for agent in planned:
        agent.samples = [sample(agent, replicas, applied["run"], n) for n in (1, 2)]
    told = await coordinator("status", "--json")
    assert told.code == 0, told.err
    (status,) = told.document["workflows"]
    detect = [r for r in status["replicas"] if r["stage"] == "detect"]
    assert all(r["items_per_second"] == 10.0 and r["busy"] == 0.5 for r in detect)
    assert all(r["predicted_items_per_second"] > 0 for r in detect)
    assert status["ledger"]["accepted"] > 0
    planned[0].samples[-1].generations["read"] = 7
    assert (await coordinator("status")).code == 1, "a device serves another generation"


def sample(agent, replicas, run, number):
    made = pb.Sample(number=number, at=float(number), generations=agent.generations)
    for replica in replicas:
        if replica["device"] == agent.name:
            made.figures.replicas.append(
                pb.ReplicaSample(
                    workflow="read",
                    generation=1,
                    replica=replica["id"],
                    items=10 * number,
                    busy_seconds=0.5 * number,
                )
            )
    if agent.name == "cam-1":
        made.figures.sources.append(
            pb.SourceSample(
                workflow="read", stage="photos", run=run, accepted=10 * number, confirmed_rps=4.0
            )
        )
    return made


async def test_what_runs_is_explained_by_what_is_measured(coordinator, planned):
    applied = (await coordinator("apply", "plan.json", "--no-browse", "--json")).document
    made = json.loads((await coordinator("events", "--json", "--kind", "plan-made")).out)
    plan = made["events"][-1]["details"]["plan"]
    for agent in planned:
        agent.samples = [slow_sample(agent, plan, applied["run"], n) for n in range(1, 40)]
    told = await coordinator("explain", "--now", "read", "--interval", 3, "--json")
    assert told.code == 0, told.err
    (found,) = told.document["workflows"]
    assert [cause["kind"] for cause in found["causes"]] == ["device-slower"], found
    (cause,) = found["causes"]
    assert "is slower than its profile" in cause["text"]
    assert "takes 1.50 times" in cause["text"]
    assert found["expected_ms"]["p50"] > 1.2 * found["predicted_ms"]["p50"]
    assert (await coordinator("explain", "--now", "other")).code != 0
    assert (await coordinator("explain", "--json")).document["error"]["fix"]


def slow_sample(agent, plan, run, number):
    """Of a device whose batches take half as long again as those of the fake profiles, at the planned load."""
    made = sample(agent, plan["replicas"], run, number)
    for source in made.figures.sources:
        source.accepted = 4 * number
    for replica in made.figures.replicas:
        if "/" in replica.replica:
            replica.batches = 10 * number
            replica.batch_sizes[1] = 10 * number
            replica.batch_seconds[1] = 10 * number * 1.5 * agent.mean_s
    return made


def sample_of(sources, sinks=()):
    return pb.Sample(number=1, at=1.0, figures=pb.WorkerFigures(sources=sources, sinks=sinks))


async def test_waiting_ends_when_the_ledger_balances(coordinator, planned):
    source = pb.SourceSample(
        workflow="read", stage="photos", run="run-1", accepted=9, confirmed=9, finished=True
    )
    source.windows.add(ended=9, within={"p95": 9})
    sink = pb.SinkSample(workflow="read", stage="text", run="run-1", results=8, errors=1)
    planned[0].samples = [sample_of([source], [sink])]
    waited = await coordinator("apply", "plan.json", "--wait", "--no-browse", "--json")
    assert waited.code == 0, waited.err
    assert waited.document["ledger"]["accepted"] == 9


async def test_waiting_fails_where_the_slo_was_missed_or_a_request_failed(coordinator, planned):
    source = pb.SourceSample(
        workflow="read",
        stage="photos",
        run="run-1",
        accepted=9,
        confirmed=9,
        errors=1,
        finished=True,
    )
    source.windows.add(ended=9, failed=1, within={"p95": 8})
    planned[0].samples = [sample_of([source])]
    missing = await coordinator("wait", "--json")
    assert missing.code == 2
    assert missing.document["error"]["what"] == "nothing runs"
    applied = await coordinator("apply", "plan.json", "--wait", "--no-browse", "--json")
    assert applied.code == 1
    assert applied.document["outcome"] == "committed"
    assert applied.document["waited"]["wrong"] == ["1 request failed"]
    waited = await coordinator("wait", "read", "--json")
    assert waited.code == 1
    assert waited.document["failed"] == 1
    assert waited.document["ledger"]["results"] == 8
    assert "1 request failed" in waited.err
    other = await coordinator("wait", "moon", "--json")
    assert other.code == 2


async def test_two_coordinators_on_one_folder_are_told_apart(coordinator, two, folder):
    from coordinator.journal.store import Journal

    journal = await asyncio.to_thread(Journal.open, folder / "home" / "coordinator")
    try:
        refused = await coordinator("devices", *named(two), "--no-browse", "--json")
        assert refused.code == 1
        assert "another coordinator" in refused.document["error"]["what"]
        assert (await coordinator("events", "--json")).code == 0, "reading goes on"
    finally:
        await asyncio.to_thread(journal.close)


async def test_a_forgotten_device_is_gone_from_plans(coordinator, planned):
    gone = await coordinator("devices", "--forget", "hub-1", "--no-browse", "--json")
    assert gone.code == 0
    states = {d["name"]: d["state"] for d in gone.document["devices"]}
    assert states == {"cam-1": "ready", "hub-1": "left"}
    unknown = await coordinator("devices", "--forget", "moon", "--no-browse", "--json")
    assert unknown.code == 2


async def test_offline_shows_the_journal(coordinator, two):
    nothing = await coordinator("devices", "--offline", "--json")
    assert nothing.code == 1
    assert "no journal" in nothing.document["error"]["what"]
    await coordinator("devices", *named(two), "--no-browse")
    calls = len(two[0].calls)
    known = await coordinator("devices", "--offline", "--json")
    assert [d["name"] for d in known.document["devices"]] == ["cam-1", "hub-1"]
    assert len(two[0].calls) == calls


async def test_a_device_that_cannot_measure_exits_with_1(coordinator, two):
    two[0].fail["profile"] = Unsupported("too hot")
    failed = await coordinator("profile", "read.yaml", *named(two), "--no-browse", "--json")
    assert failed.code == 1
    assert {f["device"] for f in failed.document["failed"]} == {"cam-1"}
    assert len(failed.document["profiles"]) == 2


async def test_a_profile_is_shown_and_written_where_it_is_the_only_one(coordinator, two, folder):
    await coordinator("devices", *named(two), "--no-browse", "--expect", 2)
    empty = await coordinator("profiles", "-o", "profile.json")
    assert empty.code != 0
    assert "coordinator profile" in empty.err
    await coordinator("profile", "read.yaml", "--no-browse")

    told = await coordinator("profiles")
    assert told.code == 0, told.err
    assert "cam-1" in told.out
    assert "ocr-detect/v3" in told.out
    both = await coordinator("profiles", "ocr-detect", "-o", "profile.json")
    assert both.code != 0
    assert "--on DEVICE" in both.err
    assert not (folder / "profile.json").exists()
    nobody = await coordinator("profiles", "--on", "nobody")
    assert nobody.code != 0
    assert "cam-1, hub-1" in nobody.err


async def test_a_disturbed_measurement_is_told(coordinator, two):
    two[0].disturbed = 0.234
    told = await coordinator("profile", "read.yaml", *named(two), "--no-browse")
    assert told.code == 0, told.err
    warned = "measurement disturbed: 23% of CPU time taken by other processes"
    assert f"warning: {two[0].name}: {warned} (2 variants)" in told.err
    assert f"coordinator profile --again --on {two[0].name}" in told.err
    assert "4 measurements in " in told.out
    assert "4 of 4  " in told.err
    devices = await coordinator("devices", "--offline")
    assert f"{two[0].name}: {warned}" in devices.out
    assert two[1].name + ": " not in devices.out
    document = (await coordinator("devices", "--offline", "--json")).document
    assert {d["name"]: d["disturbed"] for d in document["devices"]} == {
        two[0].name: 0.234,
        two[1].name: None,
    }


async def test_published_profiles_are_priors_until_a_device_measures(coordinator, two, folder):
    """What one mesh exports, another one plans with, says so, and replaces by what it measures."""
    await coordinator("profile", "read.yaml", *named(two), "--no-browse", "--on", "hub-1")
    exported = await coordinator("profiles", "export", "ocr-detect/v3", "--to", "out", "--json")
    assert exported.code == 0, exported.err
    (path,) = exported.document["written"]
    assert path.startswith("out/cpu-2-threads-onnx-1.20-")
    assert path.endswith("/ocr-detect-v3.json")
    assert "hub-1" not in (folder / path).read_text()

    here = ("--state", "other")
    await coordinator("devices", *named(two), "--no-browse", "--expect", 2, *here)
    for expected in (1, 0):
        taken = await coordinator("profiles", "import", "out", "--no-browse", *here, "--json")
        assert taken.code == 0, taken.err
        assert taken.document == {"read": 1, "imported": expected, "used_for": ["hub-1"]}
    listed = await coordinator("profiles", *here)
    assert "prior from class cpu, 2 threads, onnx 1.20: not measured on hub-1" in listed.out
    assert "20.0 ms ± 49%" in listed.out
    document = (await coordinator("profiles", *here, "--json")).document
    assert document["profiles"] == []
    assert [p["used_for"] for p in document["priors"]] == [["hub-1"]]

    plan = ("plan", "read.yaml", "-o", "plan.json", "--no-browse", *here)
    planned = await coordinator(*plan)
    assert planned.code == 0, planned.err
    label = "prior from class cpu, 2 threads, onnx 1.20, not measured here"
    assert f"{label}: detect@hub-1/v3" in planned.out
    assert "1 profiles are priors of other devices of a class" in planned.err
    assert "3 profiles are missing" in planned.err
    explained = await coordinator("explain", "plan.json")
    assert f"; {label}" in explained.out

    await coordinator("profile", "read.yaml", "--no-browse", *here)
    again = await coordinator(*plan)
    assert "prior" not in again.out + again.err
    assert (await coordinator("profiles", *here, "--on", "hub-1")).out.count("prior") == 0


async def test_a_bad_published_profile_is_named_and_nothing_is_imported(coordinator, two, folder):
    await coordinator("profile", "read.yaml", *named(two), "--no-browse")
    await coordinator("profiles", "export", "--to", "out")
    (bad,) = [p for p in sorted((folder / "out").rglob("*v3.json")) if "2-threads" in str(p)]
    plain = json.loads(bad.read_text())
    plain["profile"]["points"][0]["interval"] = "small"
    bad.write_text(json.dumps(plain))
    failed = await coordinator("profiles", "import", "out", "--no-browse", "--state", "other")
    assert failed.code == 2
    assert bad.name in failed.err
    assert "$.profile.points[0].interval" in failed.err
    listed = await coordinator("profiles", "--state", "other", "--json")
    assert listed.code != 0 or listed.document == {"profiles": [], "priors": []}
    nothing = await coordinator("profiles", "import", "nowhere", "--no-browse", "--state", "other")
    assert nothing.code == 2
    assert "nowhere" in nothing.err
