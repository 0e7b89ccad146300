"""Snapshots: what the workflow leaves open is settled as the module says."""

import pytest

from coordinator.fleet.events import DeviceLost, ProfileMeasured
from coordinator.fleet.file import FleetFile, FunctionProfile, Functions
from coordinator.fleet.state import Catalogue
from coordinator.planning.checking import check
from coordinator.planning.problem_profiles import CONTENTION, UNKNOWN_ERROR, relative_error
from coordinator.planning.snapshot import changes, inputs_of, snapshot, without_devices
from coordinator.workflows.yaml_files import parse_workflow
from tiermesh import ids
from tiermesh.documents.problem import BatchTime, ProblemLink, Uncertainty
from tiermesh.documents.profile import Point, Seconds
from tiermesh.documents.reading import to_plain
from tiermesh.errors import InvalidDocument, TiermeshError

TEXT = """
workflow: read
slo:
  rate: 6/s
  accuracy: {metric: character_accuracy, dataset: lines, at_least: 93 %}
  latency: {p95: 900 ms}
  cost: 2 USD/h
  raw_data_stays_in: [edge, hub]
stages:
  photos: {source: files, path: signs/, rate: 4/s}
  detect: {model: ocr-detect, from: photos}
  recognise: {model: ocr-recognise, from: detect}
  text: {sink: jsonl, path: out/text.jsonl, from: recognise}
"""
TABLE = [
    ({"ocr-detect": "v3", "ocr-recognise": "v3"}, 0.90),
    ({"ocr-detect": "v4", "ocr-recognise": "v3"}, 0.95),
]


@pytest.fixture
def catalogue(made):
    detect = {n: made.variant(n) for n in ("v3", "v4")}
    recognise = {"v3": made.variant("v3", "ocr-recognise")}
    return Catalogue(variants={"detect": detect, "recognise": recognise})


@pytest.fixture
def profiled(fleet, made, catalogue):
    """Two edge devices, a hub and a server; every variant measured on each, but one."""
    fleet(
        made.described("cam-1", tier="edge", price=0.1, host="a", slowdown=4.0),
        made.described("cam-2", tier="edge", price=0.1, host="a", slowdown=4.0),
        made.described("hub-1", tier="hub", price=0.3, host="b", share=0.5),
        made.described("server", tier="datacenter", price=1.0, host="c", threads=4),
    )
    for device in fleet.now.ready:
        for stage, variants in catalogue.variants.items():
            for variant in variants.values():
                cannot = "no litert" if (device.name, variant.name) == ("hub-1", "v4") else None
                profile = made.profile(
                    device,
                    variant,
                    threads=device.description.fingerprint.threads,
                    cannot_run=cannot,
                    items=5.0 if stage == "recognise" else 1.0,
                    seen=(4, 5, 6) if stage == "recognise" else (1, 1, 1),
                    out=1_000.0,
                )
                fleet(ProfileMeasured(at=1.0, who="t", device=device.id, profile=profile))
    return fleet


@pytest.fixture
def make(profiled, catalogue):
    def making(text=TEXT, *, accuracy=TABLE, network=None, **options):
        return snapshot(
            profiled.now,
            parse_workflow(text),
            catalogue,
            accuracy=accuracy,
            network=network,
            **options,
        ).problem

    return making


def stage(problem, name):
    return next(s for s in problem.stages if s.name == name)


def test_devices_are_as_they_described_themselves(make):
    hub = next(d for d in make().devices if d.name == "hub-1")
    assert (hub.tier, hub.price_per_hour, hub.usable_share) == ("hub", 0.3, 0.5)
    assert hub.memory_mb == 4_000.0


def test_sources_enter_at_the_lowest_tier_in_equal_shares(make):
    photos = stage(make(), "photos")
    assert photos.pinned == {"cam-1": 0.5, "cam-2": 0.5}
    assert photos.rate_rps == 6.0, "the workflow asks for more than the source offers"


def test_sources_enter_where_the_workflow_says(make):
    text = TEXT.replace("path: signs/,", "path: signs/, devices: [hub-1],")
    problem = make(text)
    assert stage(problem, "photos").pinned == {"hub-1": 1.0}
    assert stage(problem, "text").devices == ["hub-1"]


def test_how_requests_come_is_part_of_the_problem(make):
    assert stage(make(), "photos").arrivals == "constant"
    poisson = make(TEXT.replace("path: signs/,", "path: signs/, arrivals: poisson,"))
    assert stage(poisson, "photos").arrivals == "poisson"


def test_sinks_are_at_the_sources_unless_named(make):
    assert stage(make(), "text").devices == ["cam-1", "cam-2"]
    text = TEXT.replace("path: out/text.jsonl,", "path: out/text.jsonl, devices: [server],")
    assert stage(make(text), "text").devices == ["server"]


def test_raw_data_stays_where_it_must(make):
    problem = make()
    assert stage(problem, "detect").tiers == ["edge", "hub"]
    assert stage(problem, "photos").tiers == ["edge", "hub"]
    assert stage(problem, "recognise").tiers == []
    with pytest.raises(InvalidDocument, match="detect"):
        make(TEXT.replace("model: ocr-detect,", "model: ocr-detect, tiers: [cloud],"))


FUNCTIONS = FleetFile(
    serverless=[
        Functions(
            name="lambda",
            tier="cloud",
            usd_per_gb_second=1.66667e-05,
            profiles=[
                FunctionProfile(
                    model="ocr-recognise",
                    variant=variant,
                    memory_mb=memory,
                    batches=[BatchTime(batch_size=1, mean=80 / memory)],
                )
                for variant in ("v3", "never-measured")
                for memory in (1024, 2048)
            ],
        )
    ]
)


def test_functions_are_there_where_they_are_asked_for(make):
    problem = make(network=FUNCTIONS, functions=True)
    device = next(d for d in problem.devices if d.name == "lambda")

    assert device.serverless is not None
    assert device.serverless.usd_per_gb_second == 1.66667e-05
    offered = [p for p in problem.profiles if p.device == "lambda"]
    assert [(p.stage, p.variant, p.memory_mb) for p in offered] == [
        ("recognise", "v3", 1024),
        ("recognise", "v3", 2048),
    ], "what no device was measured with is left out"
    check(problem)


def test_what_is_to_be_applied_does_without_functions(make):
    problem = make(network=FUNCTIONS)

    assert all(d.serverless is None for d in problem.devices)
    assert problem.fleet_digest == make(network=FUNCTIONS, functions=True).fleet_digest


def test_edges_carry_items_and_bytes(make):
    problem = make(source_bytes={"photos": 50_000.0})
    edges = {(e.source, e.target): e for e in problem.edges}
    assert edges["photos", "detect"].bytes_per_item == 50_000.0
    assert edges["detect", "recognise"].ratio == 5.0
    assert edges["detect", "recognise"].bytes_by_variant == {"v3": 1_000.0, "v4": 1_000.0}
    assert edges["detect", "recognise"].items_seen == [4, 5, 6]
    assert edges["photos", "detect"].items_seen == [], "a photo is always one item"
    assert edges["recognise", "text"].ratio == pytest.approx(0.2)
    assert edges["recognise", "text"].bytes_per_item == 200.0, "five items share a request's bytes"


def test_profiles_are_at_the_threads_of_the_device(make):
    problem = make()
    by_key = {(p.stage, p.variant, p.device): p for p in problem.profiles}
    assert ("detect", "v4", "hub-1") not in by_key
    batches = by_key["detect", "v3", "server"].batches
    assert [b.batch_size for b in batches] == [1, 2, 4]
    assert batches[0].percentiles["p95"] == pytest.approx(0.05)
    assert by_key["detect", "v3", "server"].memory_mb == 80.0


def test_asks_are_those_of_the_workflow(make):
    asks = make().asks
    assert asks.accuracy_at_least == pytest.approx(0.93)
    assert asks.latency_s == {"p95": 0.9}
    assert asks.cost_per_hour_at_most == 2.0


def test_only_combinations_that_can_be_served_are_in_the_table(make):
    assert len(make().accuracy.table) == 2
    text = TEXT.replace("model: ocr-detect,", "model: ocr-detect, variants: [v3],")
    problem = make(text)
    assert [c.variants["detect"] for c in problem.accuracy.table] == ["v3"]
    assert stage(problem, "detect").variants == ["v3"]
    with pytest.raises(TiermeshError, match="measured character_accuracy"):
        make(accuracy=[])


def test_unknown_names_are_errors_with_what_is_allowed(make):
    for old, new, field in (
        ("model: ocr-detect,", "model: ocr-detect, variants: [v9],", "variants"),
        ("model: ocr-detect,", "model: ocr-detect, devices: [cam-9],", "devices"),
        ("raw_data_stays_in: [edge, hub]", "raw_data_stays_in: [moon]", "raw_data_stays_in"),
    ):
        with pytest.raises(InvalidDocument) as caught:
            make(TEXT.replace(old, new))
        assert field in str(caught.value.fields["path"])


def test_a_tier_without_a_place_is_refused(make):
    with pytest.raises(InvalidDocument, match="has no place"):
        make(network=FleetFile(tiers=["edge", "hub"]))


def test_links_come_from_the_fleet_file(make):
    link = ProblemLink(source="edge", target="datacenter", price_per_gib=0.09)
    assert make(network=FleetFile(links=[link], upward_only=True)).links == [link]


def test_a_stage_that_no_device_can_serve_is_named_with_the_reasons(profiled, made, catalogue):
    strange = made.variant("v1", "ocr-rotate")
    catalogue = Catalogue(variants={**catalogue.variants, "detect": {"v1": strange}})
    with pytest.raises(TiermeshError, match="stage `detect`") as caught:
        snapshot(profiled.now, parse_workflow(TEXT), catalogue, accuracy=TABLE)
    assert "coordinator profile" in caught.value.fix


def test_a_fleet_without_ready_devices_says_in_which_state_they_are(fleet, made, catalogue):
    fleet(made.described("cam-1"), DeviceLost(at=2.0, who="t", device="cam-1", why="silent"))
    with pytest.raises(TiermeshError, match="no device is ready") as caught:
        snapshot(fleet.now, parse_workflow(TEXT), catalogue)
    assert "cam-1 is suspect" in caught.value.why


def test_the_same_fleet_gives_the_same_problem_and_a_change_has_a_name(profiled, made, catalogue):
    workflow = parse_workflow(TEXT)
    before = inputs_of(profiled.now, workflow, catalogue, FleetFile())
    one = snapshot(profiled.now, workflow, catalogue, accuracy=TABLE)
    two = snapshot(profiled.now, workflow, catalogue, accuracy=TABLE)
    assert one.problem.digest == two.problem.digest
    assert one.inputs == before
    profiled(
        made.described("hub-1", tier="hub", price=0.35, host="b", share=0.5, port=9_999),
        made.described("hub-2", tier="hub", price=0.35, host="d"),
    )
    after = inputs_of(profiled.now, workflow, catalogue, FleetFile())
    told = changes(before, after)
    assert "device hub-1: price_per_hour was 0.3, is 0.35" in told
    assert "device hub-2 is new" in told
    assert changes(before, before) == []


def test_a_profile_measured_again_is_a_change(profiled, made, catalogue):
    workflow = parse_workflow(TEXT)
    before = inputs_of(profiled.now, workflow, catalogue, FleetFile())
    server = profiled.now.named("server")
    again = made.profile(server, catalogue.variants["detect"]["v3"], mean=0.09, threads=4)
    profiled(ProfileMeasured(at=9.0, who="t", device=server.id, profile=again))
    (told,) = changes(before, inputs_of(profiled.now, workflow, catalogue, FleetFile()))
    assert told.startswith("profile of detect/v3 on server: measured was")


def test_a_thousand_devices_are_a_snapshot_in_moments(fleet, made, catalogue):
    import time

    from coordinator.fleet import replay

    happened = [
        made.described(f"d{i:04}", host=f"h{i}", threads=1 + i % 4, price=0.1) for i in range(1_000)
    ]
    big = replay(happened)
    classes = {d.device_class: d for d in big.devices.values()}
    big = replay(
        (
            ProfileMeasured(
                at=1.0,
                who="t",
                device=device.id,
                profile=made.profile(
                    device, variant, threads=device.description.fingerprint.threads
                ),
            )
            for device in classes.values()
            for variants in catalogue.variants.values()
            for variant in variants.values()
        ),
        big,
    )
    begun = time.monotonic()
    problem = snapshot(big, parse_workflow(TEXT), catalogue, accuracy=TABLE).problem
    assert len(problem.devices) == 1_000
    assert len(problem.profiles) == 3_000
    assert time.monotonic() - begun < 5.0


def test_devices_can_be_left_out_of_a_problem_of_the_same_fleet(make):
    problem = make()
    less = without_devices(problem, {"hub-1"})
    assert "hub-1" not in {d.name for d in less.devices}
    assert "hub-1" not in {p.device for p in less.profiles}
    assert less.fleet_digest == problem.fleet_digest
    assert without_devices(problem, ()) is problem


def test_a_device_where_requests_begin_cannot_be_left_out(make):
    with pytest.raises(InvalidDocument, match="needs cam-1"):
        without_devices(make(), {"cam-1"})


def test_a_named_device_that_is_lost_does_not_stop_the_others(profiled, make):
    text = TEXT.replace("rate: 4/s}", "rate: 4/s, devices: [cam-1, cam-2]}")
    profiled(DeviceLost(at=2.0, who="t", device="cam-2", why="silent"))
    problem = make(text)
    (photos,) = (s for s in problem.stages if s.name == "photos")
    assert photos.pinned == {"cam-1": 1.0}
    assert problem.workflow_digest == parse_workflow(text).digest
    profiled(DeviceLost(at=3.0, who="t", device="cam-1", why="silent"))
    with pytest.raises(InvalidDocument, match=r"photos\.devices"):
        make(text)


# --- uncertainty -------------------------------------------------------------------------------------------------


def test_devices_of_one_host_are_known_as_neighbours(make):
    devices = {d.name: d for d in make().devices}
    assert devices["cam-1"].host == devices["cam-2"].host == "a"
    assert devices["cam-1"].contention == CONTENTION
    assert (devices["server"].host, devices["server"].contention) == ("c", 1.0)


def test_plans_of_a_live_fleet_are_asked_for_with_confidence(make):
    problem = make()
    assert (problem.asks.confidence, problem.uncertainty) == (0.95, Uncertainty())
    sure = make(TEXT.replace("cost: 2 USD/h", "confidence: 99 %"))
    assert sure.asks.confidence == pytest.approx(0.99)
    with pytest.raises(InvalidDocument, match="confidence"):
        make(TEXT.replace("cost: 2 USD/h", "confidence: 20 %"))


def test_a_workflow_that_says_nothing_of_confidence_has_the_digest_it_had():
    workflow = parse_workflow(TEXT)
    plain = to_plain(workflow)
    assert plain["slo"].pop("confidence") is None
    plain["stages"] = {name: stage.to_digest() for name, stage in workflow.stages.items()}
    assert workflow.digest == ids.digest_value(plain)
    assert (
        workflow.digest
        != parse_workflow(TEXT.replace("cost: 2", "confidence: 95 %\n  cost: 2")).digest
    )


def test_how_well_a_profile_is_known_is_part_of_the_problem(make):
    profile = make().profiles[0]
    assert len(profile.relative_errors) == len(profile.batches)
    assert all(e > 0 for e in profile.relative_errors)


@pytest.mark.parametrize(
    ("samples", "interval", "spread", "error"),
    [
        (40, 0.098, 0.0, 0.05),
        (1, 1.0, 0.5, UNKNOWN_ERROR),
        (17, 1.0, 0.0, 0.0),
        (2, 1.0, 3.0, UNKNOWN_ERROR),
    ],
)
def test_the_error_of_a_mean_follows_from_its_interval_or_else_from_its_samples(
    samples, interval, spread, error
):
    seconds = Seconds(
        mean=1.0, p50=1.0, p75=1 + spread / 2, p90=1 + spread, p95=1 + spread, p99=1 + spread
    )
    point = Point(
        batch_size=1,
        threads=1,
        samples=samples,
        seconds=seconds,
        items_per_second=1.0,
        interval=interval,
    )
    assert relative_error(point) == pytest.approx(error)


def test_more_samples_make_a_mean_surer_where_its_interval_is_not_told():
    seconds = Seconds(mean=1.0, p50=0.9, p75=1.1, p90=1.5, p95=1.6, p99=1.7)
    few, many = (
        relative_error(
            Point(
                batch_size=1,
                threads=1,
                samples=n,
                seconds=seconds,
                items_per_second=1.0,
                interval=1.0,
            )
        )
        for n in (11, 41)
    )
    assert few == pytest.approx(2 * many)
    assert 0.05 < few < UNKNOWN_ERROR
