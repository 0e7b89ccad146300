"""Cutting a plan into assignments."""

import pytest
from msgspec.structs import replace

from coordinator.fleet.lifecycle import DeviceState
from coordinator.fleet.state import Catalogue
from coordinator.rollout.assignment import assignments, check
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh.documents.plan import Function, Lane
from tiermesh.errors import InvalidDocument, Unsupported

TEXT = """
workflow: read
slo: {deadline: 20 s}
stages:
  photos: {source: files, path: [a.jpg, b.jpg], rate: 4/s, arrivals: poisson, seed: 7, count: 100}
  detect: {model: ocr-detect, from: photos, options: {threshold: 0.5}}
  tidy: {map: code/tidy, from: detect, options: {upper: true}}
  text: {sink: jsonl, path: out/text.jsonl, from: tidy}
"""
REPLICAS = (
    ("photos", None, "cam-1"),
    ("detect", "v3", "cam-1"),
    ("detect", "v4", "hub-1"),
    ("tidy", None, "hub-1"),
    ("text", None, "cam-1"),
)


@pytest.fixture
def devices(fleet, made):
    fleet(made.described("id-1", name="cam-1", port=7_101, threads=3))
    fleet(made.described("id-2", name="hub-1", port=7_102))
    return {d.name: d for d in fleet.now.ready}


@pytest.fixture
def catalogue(made):
    variants = {n: made.variant(n) for n in ("v3", "v4")}
    return Catalogue(variants={"detect": variants}, bundles={"tidy": made.bundle("tidy")})


@pytest.fixture
def plan(made):
    whole = {"photos": "photos@cam-1", "tidy": "tidy@hub-1", "text": "text@cam-1"}
    lanes = [
        Lane(share=0.25, path={**whole, "detect": "detect@cam-1/v3"}),
        Lane(
            share=0.75,
            path={**whole, "detect": "detect@hub-1/v4"},
            backup={"detect": "detect@cam-1/v3"},
        ),
    ]
    return made.plan(replicas=REPLICAS, lanes=lanes)


@pytest.fixture
def workflow():
    return parse_workflow(TEXT)


def test_each_device_gets_its_replicas_and_all_the_lanes(plan, workflow, catalogue, devices):
    parts = assignments(plan, workflow, catalogue, devices, generation=4, run="r")
    assert {d: [r.id for r in a.replicas] for d, a in parts.items()} == {
        "id-1": ["photos@cam-1", "detect@cam-1/v3", "text@cam-1"],
        "id-2": ["detect@hub-1/v4", "tidy@hub-1"],
    }
    for device, part in parts.items():
        assert (part.device, part.generation, part.run, part.plan) == (device, 4, "r", plan.digest)
        assert part.lanes == plan.lanes
        assert part.deadline_seconds == 20.0
        assert part.replica_devices["tidy@hub-1"] == "id-2"
        assert {p.address for p in part.peers.values()} == {"127.0.0.1:7101", "127.0.0.1:7102"}


COUNTING = """
workflow: read
stages:
  photos: {source: files, path: [a.jpg], rate: 4/s}
  count: {aggregate: code/count, key: name, from: photos}
  text: {sink: jsonl, path: out/text.jsonl, from: count}
"""


def counting(made, where):
    replicas = (("photos", None, "cam-1"), ("count", None, where), ("text", None, "cam-1"))
    path = {"photos": "photos@cam-1", "count": f"count@{where}", "text": "text@cam-1"}
    return made.plan(replicas=replicas, lanes=[Lane(share=1.0, path=path)])


def test_an_aggregate_that_moves_is_told_where_it_was_and_whom_nobody_waits_for(
    made, fleet, devices
):
    workflow, catalogue = parse_workflow(COUNTING), Catalogue(bundles={"count": made.bundle("c")})
    here, there = counting(made, "cam-1"), counting(made, "hub-1")
    first = assignments(there, workflow, catalogue, devices, generation=1, run="r")
    assert {(*a.formers, *a.lost) for a in first.values()} == {()}
    devices["hub-1"] = replace(devices["hub-1"], state=DeviceState.FAILED)
    moved = assignments(here, workflow, catalogue, devices, generation=2, run="r", before=there)
    assert moved.keys() == {"id-1"}
    assert moved["id-1"].formers == {"count": "id-2"}
    assert moved["id-1"].lost == ["id-2"]
    assert moved["id-1"].peers["id-2"].address == "127.0.0.1:7102"


def test_stages_and_replicas_carry_what_the_workflow_says(plan, workflow, catalogue, devices):
    part = assignments(plan, workflow, catalogue, devices, generation=1, run="r")["id-1"]
    source = part.stages["photos"].source
    assert source is not None
    assert (source.path, source.arrivals, source.seed, source.count) == (
        ["a.jpg", "b.jpg"],
        "poisson",
        7,
        100,
    )
    assert part.stages["detect"].inputs == ["photos"]
    assert part.stages["detect"].outputs == ["tidy"]
    detect = part.replicas[1]
    assert detect.variant is not None
    assert (detect.variant.name, detect.threads, detect.batch_size) == ("v3", 3, 2)
    assert detect.options == {"threshold": 0.5}
    other = assignments(plan, workflow, catalogue, devices, generation=1, run="r")["id-2"]
    tidy = other.replicas[1]
    assert tidy.bundle == catalogue.bundles["tidy"]
    assert catalogue.bundles["tidy"].artifact.digest in other.artifacts
    assert catalogue.bundles["tidy"].artifact.digest not in part.artifacts


def test_a_plan_that_falls_short_of_the_rate_lets_its_sources_accept_what_it_carries(
    plan, workflow, catalogue, devices
):
    for carried, admitted in [(4.0, None), (5.0, None), (1.0, 1.0)]:
        short = replace(plan, predicted=replace(plan.predicted, throughput_rps=carried))
        part = assignments(short, workflow, catalogue, devices, generation=1, run="r")["id-1"]
        source = part.stages["photos"].source
        assert source is not None
        assert (source.rate_rps, source.admit_rps) == (4.0, admitted)


def test_the_same_plan_gives_the_same_assignments(plan, workflow, catalogue, devices):
    def make():
        return assignments(plan, workflow, catalogue, devices, generation=1, run="r")

    assert make() == make()


def edits(plan):
    lanes = plan.lanes
    yield "$.workflow", replace(plan, workflow="other")
    yield "$.replicas[5].id", replace(plan, replicas=[*plan.replicas, plan.replicas[0]])
    yield (
        "$.replicas[0].stage",
        replace(plan, replicas=[replace(plan.replicas[0], stage="x"), *plan.replicas[1:]]),
    )
    yield (
        "$.replicas[1].variant",
        replace(
            plan,
            replicas=[
                plan.replicas[0],
                replace(plan.replicas[1], variant="v9"),
                *plan.replicas[2:],
            ],
        ),
    )
    yield "$.lanes", replace(plan, lanes=[replace(lanes[0], share=0.5), lanes[1]])
    path = {k: v for k, v in lanes[0].path.items() if k != "tidy"}
    yield "$.lanes[0].path", replace(plan, lanes=[replace(lanes[0], path=path), lanes[1]])
    path = {**lanes[0].path, "tidy": "text@cam-1"}
    yield "$.lanes[0].path.tidy", replace(plan, lanes=[replace(lanes[0], path=path), lanes[1]])


def test_a_plan_that_could_not_be_served_is_refused_at_the_field(
    plan, workflow, catalogue, devices
):
    for path, edited in edits(plan):
        with pytest.raises(InvalidDocument) as caught:
            check(edited, workflow, catalogue, devices)
        assert caught.value.fields["path"] == path


@pytest.mark.parametrize("path", ["/etc/passwd", "../secrets", "signs/../../x"])
def test_a_path_that_leads_out_of_the_data_folder_is_refused(plan, catalogue, devices, path):
    workflow = parse_workflow(TEXT.replace("[a.jpg, b.jpg]", path))
    with pytest.raises(InvalidDocument, match="photos"):
        check(plan, workflow, catalogue, devices)


def test_functions_are_refused_with_what_they_lack(plan, catalogue, devices):
    used = Function(memory_mb=2048, usd_per_item=1e-6, mean_servers=0.2)
    replicas = [replace(r, function=used) if r.stage == "detect" else r for r in plan.replicas]
    with pytest.raises(Unsupported) as error:
        check(replace(plan, replicas=replicas), parse_workflow(TEXT), catalogue, devices)

    assert "no agent runs on `cam-1`, `hub-1`" in error.value.what
    assert "fleet file" in error.value.fix
    assert error.value.fields["functions"] == ["detect@cam-1/v3", "detect@hub-1/v4"]
