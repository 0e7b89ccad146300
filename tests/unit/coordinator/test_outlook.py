"""What is measured first, what need not be known well, and how long the rest will take."""

import pytest
from msgspec.structs import replace

from coordinator.fleet import Desired, decide
from coordinator.fleet.events import ProfileMeasured
from coordinator.fleet.instructions import Measure
from coordinator.fleet.profile_text import disturbance, disturbed_share, summary
from coordinator.profiling.schedule import ProfilingOutlook, in_order, rivals, to_beat
from coordinator.progress import WorkCounts

TABLE = [
    ({"detect": "small", "read": "best"}, 0.95),
    ({"detect": "large", "read": "best"}, 0.97),
    ({"detect": "small", "read": "odd"}, 0.96),
    ({"detect": "large", "read": "odd"}, 0.90),
    ({"detect": "small", "read": "worst"}, 0.80),
    ({"detect": "large", "read": "worst"}, 0.85),
]


@pytest.fixture
def variants(made):
    names = {"detect": ("small", "large"), "read": ("worst", "odd", "best")}
    return [made.variant(name, model) for model, of in names.items() for name in of]


def test_the_best_of_each_model_comes_first_then_the_second_of_each(variants):
    assert [v.name for v in in_order(variants, TABLE)] == ["large", "best", "small", "odd", "worst"]


def test_without_accuracies_models_take_turns_as_their_variants_come(variants):
    assert [v.name for v in in_order(variants, ())] == ["small", "worst", "large", "odd", "best"]


def test_a_rival_is_at_least_as_accurate_whatever_the_other_models_are(variants):
    name = {v.digest: v.name for v in variants}
    found = {
        name[of]: sorted(name[r] for r in better) for of, better in rivals(variants, TABLE).items()
    }
    # "odd" is better than "best" beside one detector, and worse beside the other.
    assert found == {
        "small": [],
        "large": [],
        "worst": ["best", "odd"],
        "odd": [],
        "best": [],
    }


def test_what_there_is_to_beat_is_the_fastest_rival_on_the_class(fleet, made):
    now = fleet(made.described("d"))
    slow, fast = made.variant("slow"), made.variant("fast")
    of_class = {
        v.digest: made.profile(now.devices["d"], v, mean=mean)
        for v, mean in ((slow, 0.2), (fast, 0.1))
    }
    seconds = to_beat(of_class, [slow.digest, fast.digest, "unknown"], (1, 4, 8), 2)
    assert seconds == pytest.approx([0.1, 0.1 * 3.4, 0.0])
    assert to_beat(of_class, [slow.digest], (1,), 1) == [0.0], "measured with other threads"


def test_a_variant_is_measured_on_all_devices_of_a_host_before_the_next_variant(fleet, made):
    """So that a plan can soon be made with every device."""
    fleet(*(made.described(f"d{i}", host="h", slowdown=1.0 + i) for i in (1, 2)))
    variants = [made.variant("v3"), made.variant("v4")]
    desired, order = Desired(variants=tuple(v.digest for v in variants)), []
    while asked := decide(fleet.now, desired):
        (measure,) = asked
        device = fleet.now.devices[measure.device]
        variant = next(v for v in variants if v.digest == measure.variant_digest)
        order.append((variant.name, measure.device))
        profile = made.profile(device, variant)
        fleet(ProfileMeasured(at=1.0, who="d", device=device.id, profile=profile))
    assert order == [("v3", "d1"), ("v3", "d2"), ("v4", "d1"), ("v4", "d2")]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def measured(fleet, made, outlook, at, took_s):
    device, variant = at
    instruction = Measure(device, variant.digest, fleet.now.devices[device].host)
    outlook.ended(fleet.now, instruction, failed=False)
    profile = replace(made.profile(fleet.now.devices[device], variant), took_seconds=took_s)
    fleet(ProfileMeasured(at=1.0, who=device, device=device, profile=profile))


def test_progress_is_counted_and_hosts_work_side_by_side(fleet, made):
    fleet(
        made.described("a1", host="a", slowdown=1.5),
        made.described("a2", host="a", slowdown=2.0),
        made.described("b", host="b", slowdown=3.0),
    )
    v3, v4 = made.variant("v3"), made.variant("v4")
    clock = Clock()
    outlook = ProfilingOutlook(Desired(variants=(v3.digest, v4.digest)), clock)
    assert outlook.tally(fleet.now, "a1") == WorkCounts(0, 6, None, 0, 2, None)
    measured(fleet, made, outlook, ("a1", v3), 10.0)
    # On host a: v3 of a2 takes 10 s as it did elsewhere, v4 of both as long as anything did.
    assert outlook.tally(fleet.now, "a1") == WorkCounts(1, 6, 30.0, 1, 2, 10.0)
    measured(fleet, made, outlook, ("b", v4), 4.0)
    clock.now = 5.0
    assert outlook.tally(fleet.now, "a1") == WorkCounts(2, 6, 18.0, 1, 2, 4.0)
    clock.now = 7.0
    assert outlook.tally(fleet.now, "b") == WorkCounts(2, 6, 16.0, 1, 2, 8.0)


def test_a_failure_is_counted_and_not_waited_for(fleet, made):
    fleet(made.described("a"))
    variant = made.variant()
    outlook = ProfilingOutlook(Desired(variants=(variant.digest,)), Clock())
    outlook.ended(fleet.now, Measure("a", variant.digest, "host-1"), failed=True)
    assert outlook.tally(fleet.now, "a") == WorkCounts(1, 1, 0.0, 1, 1, 0.0)


def test_one_device_of_a_class_is_counted_for_all(fleet, made):
    fleet(*(made.described(f"d{i}", host=f"h{i}") for i in range(3)))
    outlook = ProfilingOutlook(Desired(variants=(made.variant().digest,)), Clock())
    assert outlook.tally(fleet.now, "d0").total == 1


def test_a_profile_in_a_line(fleet, made):
    device = fleet(made.described("d")).devices["d"]
    profile = made.profile(device, made.variant(), mean=0.0123)
    assert summary(profile) == "measured, 12.3 ms ± 5 %"
    assert disturbance(replace(profile, disturbed=0.05)) == ""
    told = summary(replace(profile, disturbed=0.234))
    assert told.endswith("(disturbed: 23 % of CPU time taken by other processes)")
    assert summary(made.profile(device, made.variant(), cannot_run="no such runtime")) == (
        "cannot run: no such runtime"
    )


def test_a_device_tells_the_worst_of_its_own_measurements(fleet, made):
    fleet(made.described("a"), made.described("b"))
    for name, share in (("v3", 0.02), ("v4", 0.3)):
        profile = made.profile(fleet.now.devices["a"], made.variant(name))
        fleet(
            ProfileMeasured(at=1.0, who="a", device="a", profile=replace(profile, disturbed=share))
        )
    assert disturbed_share(fleet.now, fleet.now.devices["a"]) == 0.3
    assert disturbed_share(fleet.now, fleet.now.devices["b"]) is None, "measured by another one"
