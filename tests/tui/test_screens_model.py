"""What the other screens show: gauges, the fleet, the form, differences, rollouts, profiles, the journal."""

from __future__ import annotations

import re
from dataclasses import replace

import msgspec
import pytest

from coordinator.fleet.priors import exported
from coordinator.fleet.state import Judged, Sighting
from coordinator.sessions.link_quality import LinkQuality
from coordinator.tui.model import text as t
from coordinator.tui.model.banner import banner
from coordinator.tui.model.candidate import Asking, PlanAnswer
from coordinator.tui.model.device import detail, unreached
from coordinator.tui.model.fleet import FleetTable, Sort
from coordinator.tui.model.gauges import Figure, gauge_lines, gauges
from coordinator.tui.model.journal import JournalLog, chain, entry_lines
from coordinator.tui.model.plan import Form, RowKind, against_running, candidate_lines
from coordinator.tui.model.profiles import HeatMap, cell_lines
from coordinator.tui.model.rollout import rollout_lines
from coordinator.tui.model.slo_fields import changed_text, checked, fields, parsed
from coordinator.tui.model.strip import strip, tab_at
from coordinator.tui.model.timeline import story
from tiermesh.errors import InvalidDocument
from tiermesh.v1 import telemetry_pb2 as pb


def told(lines):
    return "\n".join("".join(run.text for run in line) for line in lines)


def shown(painting):
    return told([painting.line(y) for y in range(painting.height)])


# --- gauges ------------------------------------------------------------------------------------------------------


def test_gauges_hold_what_is_measured_against_what_is_asked(view_at, serving):
    found = {gauge.name: gauge for gauge in gauges(view_at(serving), "read-signs")}
    throughput = found["throughput"]
    assert throughput.asked == 4.0
    assert throughput.measured == pytest.approx(4.0, rel=0.4)
    assert found["latency p95"].asked == 6_000
    assert found["latency p95"].measured is not None
    assert found["accuracy"].predicted >= 0.93 - 1e-9
    assert found["cost"].measured > 0


@pytest.mark.parametrize(
    ("at_least", "measured", "slack", "met"),
    [
        (True, 110.0, 0.1, True),
        (True, 80.0, -0.2, False),
        (False, 80.0, 0.2, True),
        (False, 110, -0.1, False),
    ],
)
def test_slack_is_on_the_good_side(at_least, measured, slack, met):
    gauge = Figure(name="x", unit="ms", at_least=at_least, measured=measured, asked=100.0)
    assert gauge.slack == pytest.approx(slack)
    assert gauge.met is met


def test_gauges_say_without_colour_what_is_missed():
    missed = Figure(name="latency p95", unit="ms", at_least=False, measured=110.0, asked=100.0)
    text = told(gauge_lines([missed], 100))
    assert "✗" in text
    assert "-10%" in text


# --- fleet -------------------------------------------------------------------------------------------------------


def test_devices_are_grouped_by_tier_with_their_state_and_load(view_at, serving):
    table = FleetTable(view_at(serving), 150)
    text = shown(table)
    assert [row.split(" ")[0] for row in table.rows if isinstance(row, str)] == [
        "edge",
        "hub",
        "datacenter",
    ]
    assert text.count("● ready") == 4
    assert "%" in text
    assert all(t.width(table.line(y)) <= 150 for y in range(table.height))


def test_a_filter_keeps_what_has_every_word(view_at, serving):
    table = FleetTable(view_at(serving), 100, wanted="edge cam-2")
    assert [row.name for row in table.rows if not isinstance(row, str)] == ["cam-2"]
    assert "no device matches" in shown(FleetTable(view_at(serving), 100, wanted="nothing"))


def test_orders(view_at, serving):
    view = view_at(serving)
    names = lambda sort: [d.name for d in FleetTable(view, 100, sort=sort).rows]  # noqa: E731
    assert names(Sort.NAME) == ["cam-1", "cam-2", "hub-1", "server"]
    assert names(Sort.PRICE) == ["server", "hub-1", "cam-2", "cam-1"]


def test_a_device_in_full_says_why_it_failed(view_at, recorded):
    view = view_at(recorded.time_of("device-failed") + 0.05)
    device = view.fleet.named("hub-1")
    text = told(detail(view, device, 46))
    assert "✗ failed" in text
    assert device.why.split(" ")[0] in text


def test_ways_that_lead_nowhere_are_shown_with_a_remedy(view_at, serving):
    view = view_at(serving)
    way = Sighting(addresses=["10.0.0.1:7"], via="static", failures=["10.0.0.1:7: refused"])
    fleet = msgspec.structs.replace(view.fleet, sightings={"10.0.0.1:7": way})
    text = told(unreached(replace(view, fleet=fleet), 80))
    assert "refused" in text
    assert "start the agent" in text


def test_power_is_shown_where_a_device_says_what_feeds_it(view_at, serving):
    view = view_at(serving)
    assert "power" not in [c.title for c in FleetTable(view, 120).columns]
    device = view.fleet.named("cam-1")
    print_ = msgspec.structs.replace(device.description.fingerprint, power="battery")
    said = msgspec.structs.replace(device.description, fingerprint=print_)
    fed = msgspec.structs.replace(device, description=said)
    fleet = msgspec.structs.replace(view.fleet, devices={**view.fleet.devices, device.id: fed})
    view = replace(view, fleet=fleet)
    assert "battery" in shown(FleetTable(view, 120))
    assert "from its battery" in told(detail(view, fed, 46))


@pytest.mark.parametrize(
    ("said", "cell", "fact"),
    [
        ((61.4, pb.Battery.STATE_CHARGING), " 61 % ▲", "battery 61 %, charging"),
        ((9.0, pb.Battery.STATE_DISCHARGING), "  9 % ▼", "battery 9 %, discharging"),
        ((100.0, pb.Battery.STATE_RESTING), "100 % =", "battery 100 %, full, or not charging"),
        ((50.0, 77), " 50 %", "battery 50 %"),
    ],
)
def test_the_level_of_a_battery_is_shown(view_at, serving, said, cell, fact):
    view = view_at(serving)
    device = view.fleet.named("cam-1")
    battery = pb.Battery(level_percent=said[0], state=said[1])
    view.telemetry.of(device.id).samples.append(pb.Sample(at=1.0, battery=battery))
    assert cell in shown(FleetTable(view, 130))
    assert fact in " ".join(told(detail(view, device, 80)).split("\n"))


def test_a_link_is_shown_with_its_time_and_its_word(view_at, serving):
    view = view_at(serving)
    device = view.fleet.named("cam-1")
    view.telemetry.of(device.id).link = LinkQuality(0.41, 0.3, 30, 2)
    assert "0.4 ms fair" in shown(FleetTable(view, 120))
    text = " ".join(told(detail(view, device, 80)).split())
    assert "fair: 0.4 ms there and back, 0.3 ms at best; 2 reconnects in the last hour" in text


def test_hostile_words_of_a_device_are_escaped(view_at, serving):
    view = view_at(serving)
    device = view.fleet.named("cam-1")
    said = msgspec.structs.replace(device.description, tier="edge\x1b[31m\u202e[red]")
    hostile = msgspec.structs.replace(device, name="a\x07\x1b]0;title\x07b", description=said)
    fleet = msgspec.structs.replace(view.fleet, devices={**view.fleet.devices, device.id: hostile})
    view = replace(view, fleet=fleet)
    for text in (
        shown(FleetTable(view, 120)),
        told(detail(view, hostile, 46)),
        told(strip(view, "fleet", 120)),
    ):
        assert all(c.isprintable() or c == "\n" for c in text)
    assert r"a\x07\x1b]0;tit…" in shown(FleetTable(view, 120))
    assert r"a\x07\x1b]0;title\x07b" in told(detail(view, hostile, 46))


# --- what is asked -----------------------------------------------------------------------------------------------

TEXT = """
workflow: read
slo:
  rate: 4/s
  accuracy: {metric: m, dataset: d, at_least: 93 %}
  latency: {p95: 6 s}
stages:
  photos: {source: files, path: signs/, rate: 4/s}
  text: {sink: jsonl, path: out/text.jsonl, from: photos}
"""


def test_asks_are_changed_in_the_workflow_itself():
    changed = parsed(
        changed_text(
            TEXT, {"rate": "12/s", "accuracy": "95 %", "p95": "900 ms", "cost": "0.4 USD/h"}
        )
    )
    assert float(changed.slo.rate) == 12
    assert float(changed.stages["photos"].rate) == 12
    assert float(changed.slo.accuracy.at_least) == pytest.approx(0.95)
    assert float(changed.slo.latency["p95"]) == pytest.approx(0.9)
    assert float(changed.slo.cost) == pytest.approx(0.4)


def test_an_ask_can_be_taken_away_and_nothing_changed_is_the_same_text():
    changed = parsed(changed_text(TEXT, {"p95": "", "accuracy": ""}))
    assert changed.slo.latency == {}
    assert changed.slo.accuracy is None
    assert changed_text(TEXT, {"rate": "4/s"}) == TEXT


def test_accuracy_needs_its_data_set():
    without = TEXT.replace("  accuracy: {metric: m, dataset: d, at_least: 93 %}\n", "")
    with pytest.raises(InvalidDocument, match="accuracy cannot be asked"):
        changed_text(without, {"accuracy": "95 %"})


@pytest.mark.parametrize(("key", "value"), [("rate", "12"), ("p95", "fast"), ("cost", "1 EUR")])
def test_a_value_without_its_unit_is_refused(key, value):
    with pytest.raises(InvalidDocument):
        checked(key, value)


def test_the_form_shows_what_was_changed_and_what_is_barred(view_at, serving):
    asking = Asking(
        number=1,
        workflow="read",
        changes={"rate": "8/s"},
        devices=frozenset({"cam-1"}),
        tiers=frozenset({"hub"}),
    )
    form = Form(view_at(serving), parsed(TEXT).slo, asking, 42)
    text = shown(form)
    assert "8/s was 4/s" in text
    barred = {row.key for row in form.rows if row.now == "no"}
    assert barred == {"cam-1", "hub", "hub-1"}
    assert {row.kind for row in form.rows} == set(RowKind)
    assert [f.changed for f in fields(parsed(TEXT).slo, asking.changes)] == [
        True,
        False,
        False,
        False,
    ]


def test_a_plan_found_before_a_failure_says_what_it_counts_on(view_at, serving, recorded):
    before, after = view_at(serving), view_at(recorded.time_of("replan-ended", last=True))
    plan = before.fleet.plans[before.fleet.running["read-signs"].plan].plan
    found = PlanAnswer(asking=Asking(number=1, workflow="read-signs"), plan=plan)
    assert "since this was planned" not in told(candidate_lines(before, found, None, 80))
    assert "hub-1 is failed since this was planned" in told(candidate_lines(after, found, None, 80))
    assert against_running(before, plan).empty
    assert against_running(after, plan).moved or against_running(after, plan).started


# --- rollout, profiles, journal ----------------------------------------------------------------------------------


def test_a_rollout_shows_how_far_each_device_is(view_at, recorded, serving):
    assert "live" in told(rollout_lines(view_at(serving), "read-signs", 118))
    under_way = recorded.time_of("rollout-prepared")
    text = told(rollout_lines(view_at(under_way), "read-signs", 118))
    assert "under way" in text
    assert "✓ done" in text


def test_the_heat_map_has_every_variant_on_every_device(view_at, serving):
    view = view_at(serving)
    heat = HeatMap(view, 120)
    assert {rung.model for rung in heat.rungs} == {"ocr-detect", "ocr-rotate", "ocr-recognise"}
    assert [d.name for d in heat.devices] == ["cam-1", "cam-2", "hub-1", "server"]
    rung = heat.rungs[0]
    text = told(cell_lines(view, rung, heat.devices[0], 48))
    assert "p95" in text
    assert "ago" in text


def test_a_variant_that_cannot_run_says_why(view_at, serving):
    view = view_at(serving)
    device = view.fleet.named("cam-1")
    profiles = view.fleet.profiles[device.device_class]
    digest, profile = next(iter(profiles.items()))
    cannot = msgspec.structs.replace(profile, cannot_run="no litert here", points=[])
    fleet = msgspec.structs.replace(
        view.fleet,
        profiles={**view.fleet.profiles, device.device_class: {**profiles, digest: cannot}},
    )
    view = replace(view, fleet=fleet)
    heat = HeatMap(view, 120)
    assert "✗ cannot" in shown(heat)
    rung = next(r for r in heat.rungs if r.digest == digest)
    assert "no litert here" in told(cell_lines(view, rung, device, 48))


def test_a_prior_is_shown_as_one_where_nothing_was_measured(view_at, serving):
    view = view_at(serving)
    server = view.fleet.named("server")
    prior, *_ = exported(view.fleet, only=server)
    digest = prior.profile.variant_digest
    profiles = view.fleet.profiles[server.device_class]
    left = {key: profile for key, profile in profiles.items() if key != digest}
    fleet = msgspec.structs.replace(
        view.fleet,
        profiles={**view.fleet.profiles, server.device_class: left},
        priors={prior.hardware.digest: {digest: prior}},
    )
    view = replace(view, fleet=fleet)
    heat = HeatMap(view, 120)
    assert shown(heat).count("~ ") == 1
    rung = next(r for r in heat.rungs if r.digest == digest)
    text = told(cell_lines(view, rung, server, 48))
    assert "it was not measured here" in text
    assert "planned with a prior from class" in text


def test_the_log_tells_the_chain_from_a_failure_to_the_plan_that_answers(view_at, recorded):
    after = recorded.time_of("replan-ended", last=True) + 0.1
    view = view_at(after)
    kinds = [e.event.kind for e in JournalLog(view, 118).entries]
    began = len(kinds) - 1 - kinds[::-1].index("device-failed")
    wanted = ["device-failed", "replan-started", "rollout-started", "replan-ended"]
    assert [k for k in kinds[began:] if k in wanted] == wanted
    ticker = told(chain(view, 118, 30))
    assert "device-failed" in ticker
    assert re.search(
        r"generation-serves +generation \d+ \(device-failed\) of read-signs, on 3 devices",
        ticker,
    )
    assert ticker.count("generation-serves") == kinds.count("rollout-started")
    assert len(JournalLog(view, 118, wanted="replan").entries) >= 2


def test_an_event_of_a_replan_has_its_whole_story_beside_it(view_at, recorded):
    view = view_at(recorded.time_of("replan-ended", last=True) + 0.1)
    entries = list(view.journal)
    failed = next(e for e in reversed(entries) if e.event.kind == "device-failed")
    ended = entries[-1] if entries[-1].event.kind == "replan-ended" else None
    ended = ended or next(e for e in reversed(entries) if e.event.kind == "replan-ended")
    kinds = [e.event.kind for e in story(entries, failed)]
    assert kinds == [
        "device-lost",
        "device-failed",
        "replan-started",
        "plan-made",
        "rollout-started",
        "rollout-committed",
        "replan-ended",
    ]
    assert story(entries, ended) == story(entries, failed)
    assert story(entries, entries[0]) == []
    text = told(entry_lines(view, failed, 46))
    assert "from the reason to what came of it" in text
    assert "generation-serves" in text


def test_the_banner_follows_the_failure_and_the_replan(view_at, recorded, serving):
    at = lambda t_: told([banner(view_at(t_), 118) or ()])  # noqa: E731
    assert "device-failed" in at(recorded.time_of("replan-started") + 0.01)
    assert "being rolled out" in at(recorded.time_of("replan-ended", last=True) - 0.2)
    ended = at(recorded.time_of("replan-ended", last=True) + 0.5)
    assert "device-failed → replan → generation" in ended


def test_the_strip_names_what_is_wrong_and_its_tabs_can_be_clicked(view_at, recorded):
    view = view_at(recorded.time_of("device-failed") + 0.05)
    tabs, state = strip(view, "fleet", 118)
    assert "✗ hub-1" in told([state])
    at = told([tabs]).index("4 Rollout")
    assert tab_at(at) == "rollout"
    assert tab_at(0) is None
    assert t.width(state) == 118


# --- the SLO -----------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(view_at, serving):
    """The view while all is well, after so many requests of which so many were within the SLO."""

    def view(ended, within):
        found = view_at(serving)
        run = found.fleet.running["read-signs"].run
        for heard in found.telemetry.devices.values():
            for source in heard.newest.figures.sources if heard.newest is not None else ():
                if source.run == run:
                    del source.windows[:]
                    for seconds in (60, 600, 0):
                        source.windows.add(seconds=seconds, ended=ended, within={"p95": within})
        return found

    return view


def test_the_strip_has_the_verdict_and_the_slo_beside_what_was_planned_and_measured(kept):
    state = told([strip(kept(500, 499), "placement", 140)[1]])
    assert "✓ SLO met" in state
    assert re.search(r"p95 \d+ ms ✓ \(~\d+ ms ≤ 6000 ms\)", state), state
    assert banner(kept(500, 499), 118) is None


@pytest.mark.parametrize(
    ("within", "word", "sign", "role"),
    [(300, "missed", "✗", "banner-bad"), (474, "at-risk", "▲", "banner-warn")],
)
def test_there_is_no_tick_beside_an_slo_that_is_not_met(kept, within, word, sign, role):
    view = kept(500, within)
    state = told([strip(view, "placement", 140)[1]])
    assert f"{sign} SLO {word}" in state
    assert "✓" not in state
    line = banner(view, 118)
    assert line is not None
    assert line[0].role == role
    assert f"SLO {word}: p95: {within / 500:.1%} of" in line[0].text


def test_the_banner_says_first_why_an_slo_is_missed(kept):
    view = kept(500, 300)
    judged = Judged(at=1.0, verdict="missed", causes=["load 6.1/s, planned 4/s"])
    fleet = msgspec.structs.replace(view.fleet, judged={"read-signs": judged})
    line = banner(replace(view, fleet=fleet), 118)
    assert line is not None
    assert "SLO missed: load 6.1/s, planned 4/s; p95:" in line[0].text


def test_an_slo_of_which_nothing_is_known_is_not_called_met(view_at, serving):
    assert "SLO" not in told([strip(view_at(serving), "placement", 140)[1]])


def test_events_say_by_their_sign_whether_the_slo_is_kept():
    from coordinator.fleet.events import SloVerdict
    from coordinator.tui.model.journal import role_of

    signs = {}
    for word in ("met", "at-risk", "missed"):
        event = SloVerdict(
            at=1.0, who="c", workflow="w", generation=1, verdict=word, before="met", why="so"
        )
        signs[word] = role_of(event)[0]
    assert signs == {"met": "✓", "at-risk": "▲", "missed": "✗"}
