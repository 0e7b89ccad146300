"""Priors: who they are for, how wide they are, and what takes their place."""

from __future__ import annotations

import math

import pytest
from msgspec import structs

from coordinator.fleet import Desired, unmeasured
from coordinator.fleet.events import PriorImported, ProfileDropped, ProfileMeasured
from coordinator.fleet.priors import BETWEEN_DEVICES, Priors, exported
from coordinator.fleet.state import Catalogue
from coordinator.planning.explain import explain
from coordinator.planning.planner import solve
from coordinator.planning.problem_profiles import prior_error, relative_error
from coordinator.planning.snapshot import changes, snapshot
from coordinator.telemetry.drift import Drift, Ratio, corrected_problem
from coordinator.workflows.yaml_files import parse_workflow

TEXT = """
workflow: read
slo: {rate: 2/s}
stages:
  photos: {source: files, path: signs/, rate: 2/s, devices: [cam-1]}
  detect: {model: ocr-detect, from: photos}
  text: {sink: jsonl, path: out/text.jsonl, from: detect}
"""


@pytest.fixture
def variant(made):
    return made.variant()


@pytest.fixture
def measured(fleet, made, variant):
    """Two real devices that differ in memory, so in class, and an emulated one; `lab` has measured."""
    fleet(
        made.described("lab", host="a"),
        made.described("cam-1", host="b"),
        made.described("cam-2", host="c", slowdown=4.0),
        made.described("hub", host="d", threads=1),
    )
    profile = made.profile(fleet.now.named("lab"), variant)
    fleet(ProfileMeasured(at=1.0, who="t", device="lab", profile=profile))
    return fleet


@pytest.fixture
def published(measured):
    (one,) = exported(measured.now)
    return one


@pytest.fixture
def elsewhere(made, published):
    """Another mesh, with the prior: a device of the class, an emulated one, one with fewer threads."""
    from tests.unit.coordinator.conftest import FleetUnderTest

    mesh = FleetUnderTest()
    mesh(
        made.described("cam-1", host="b"),
        made.described("cam-2", host="c", slowdown=4.0),
        made.described("hub", host="d", threads=1),
        PriorImported(at=2.0, who="t", published=published),
    )
    return mesh


def problem_of(fleet, variant):
    catalogue = Catalogue(variants={"detect": {"v3": variant}})
    return snapshot(fleet, parse_workflow(TEXT), catalogue)


def test_it_is_for_devices_of_its_class_that_have_not_measured(elsewhere, variant, published):
    priors = Priors(elsewhere.now)
    used = {d.name: priors.of(d, variant.digest) for d in elsewhere.now.ready}
    assert used == {"cam-1": published, "cam-2": None, "hub": None}
    assert priors.of(elsewhere.now.named("cam-1"), "sha256:" + "0" * 64) is None


def test_it_never_counts_as_measured(elsewhere, variant):
    cam = elsewhere.now.named("cam-1")
    assert elsewhere.now.profile(cam, variant.digest) is None
    asked = unmeasured(elsewhere.now, Desired(variants=(variant.digest,)))
    assert {m.device for m in asked} == {"cam-1", "cam-2", "hub"}
    assert exported(elsewhere.now) == []


def test_a_plan_says_so_and_allows_for_other_devices_of_the_class(elsewhere, variant, published):
    problem = problem_of(elsewhere.now, variant).problem
    (profile,) = problem.profiles
    label = "cpu, 2 threads, onnx 1.20"
    assert (profile.device, profile.prior) == ("cam-1", label)
    errors = [relative_error(p) for p in published.profile.points]
    assert profile.relative_errors == [math.hypot(e, BETWEEN_DEVICES) for e in errors]
    assert prior_error(published.profile.points[0]) > 5 * errors[0]
    plan = solve(problem)
    assert f"prior from class {label}, not measured here: detect@cam-1/v3" in plan.warnings[0]
    reasons = {w.replica: w.reason for w in explain(problem, plan).replicas}
    assert reasons["detect@cam-1/v3"].endswith(f"prior from class {label}, not measured here")
    assert "prior" not in reasons["photos@cam-1"]


def test_a_measurement_takes_its_place_and_is_a_change(elsewhere, made, variant):
    before = problem_of(elsewhere.now, variant)
    cam = elsewhere.now.named("cam-1")
    slow = made.profile(cam, variant, mean=0.09)
    elsewhere(ProfileMeasured(at=3.0, who="t", device="cam-1", profile=slow))
    after = problem_of(elsewhere.now, variant)
    (profile,) = after.problem.profiles
    assert (profile.prior, profile.batches[0].mean) == (None, pytest.approx(0.09))
    assert solve(after.problem).warnings == []
    (told,) = changes(before.inputs, after.inputs)
    assert told.startswith("profile of detect/v3 on cam-1: measured was")
    elsewhere(
        ProfileDropped(
            at=4.0, who="t", device_class=cam.device_class, variant_digest=variant.digest
        )
    )
    assert problem_of(elsewhere.now, variant).problem.digest == before.problem.digest


def test_what_serving_measures_takes_its_place(elsewhere, variant):
    problem = problem_of(elsewhere.now, variant).problem
    drifted = Drift(overall=Ratio(1.5, 1.4, 1.6, 100), by_size={})
    corrected = corrected_problem(problem, {("detect", "v3", "cam-1"): drifted})
    assert [p.prior for p in corrected.profiles] == [None]


def test_a_problem_without_priors_keeps_its_digest(measured, variant):
    problem = problem_of(measured.now, variant).problem
    measured_there = [p for p in problem.profiles if p.device == "lab"]
    assert [p.prior for p in measured_there] == [None]
    without = structs.replace(problem, profiles=measured_there)
    labelled = [structs.replace(p, prior="x") for p in measured_there]
    assert without.digest != structs.replace(without, profiles=labelled).digest


def test_the_newer_of_two_counts_whichever_comes_last(elsewhere, published, variant):
    older = structs.replace(
        published,
        profile=structs.replace(published.profile, measured_at="2024-01-01T00:00:00Z"),
    )
    elsewhere(PriorImported(at=5.0, who="t", published=older))
    assert Priors(elsewhere.now).of(elsewhere.now.named("cam-1"), variant.digest) is published


def test_emulated_devices_and_what_cannot_run_are_not_exported(measured, made, variant):
    broken = made.variant("v4")
    emulated, real = measured.now.named("cam-2"), measured.now.named("lab")
    emulation = emulated.description.fingerprint.emulated
    measured(
        ProfileMeasured(
            at=2.0,
            who="t",
            device="cam-2",
            profile=structs.replace(made.profile(emulated, variant), emulated=emulation),
        ),
        ProfileMeasured(
            at=2.0,
            who="t",
            device="lab",
            profile=made.profile(real, broken, cannot_run="no room"),
        ),
    )
    (one,) = exported(measured.now)
    assert (one.profile.variant, one.profile.device) == ("v3", "")


def test_a_disturbed_measurement_is_not_exported(measured, made, variant):
    lab = measured.now.named("lab")
    profile = structs.replace(made.profile(lab, variant), disturbed=0.7)
    measured(ProfileMeasured(at=2.0, who="t", device="lab", profile=profile))
    assert exported(measured.now) == []


def test_an_export_is_narrowed(measured, variant):
    assert len(exported(measured.now, "ocr-detect")) == 1
    assert len(exported(measured.now, "ocr-detect", "v3", measured.now.named("lab"))) == 1
    assert exported(measured.now, "ocr-detect", "v9") == []
    assert exported(measured.now, only=measured.now.named("hub")) == []


def test_of_two_devices_of_a_class_the_less_disturbed_counts(measured, made, variant):
    lab, busy = measured.now.named("lab"), made.described("busy", host="e")
    print_ = structs.replace(busy.description.fingerprint, memory_bytes=8_000_000_000)
    busy = structs.replace(busy, description=structs.replace(busy.description, fingerprint=print_))
    measured(busy)
    for name, mean, disturbed in (("busy", 0.2, 0.09), ("lab", 0.05, 0.01)):
        device = measured.now.named(name)
        profile = made.profile(device, variant, mean=mean)
        measured(
            ProfileMeasured(
                at=3.0,
                who="t",
                device=name,
                profile=structs.replace(profile, disturbed=disturbed),
            )
        )
    assert lab.device_class != measured.now.named("busy").device_class
    (one,) = exported(measured.now)
    assert one.profile.disturbed == 0.01
