"""The board: every replica has a card, lanes become links, and the drawing says it all within its width."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.fleet.lifecycle import DeviceState
from coordinator.tui.model import text as t
from coordinator.tui.model.drawing import draw
from coordinator.tui.model.placement import (
    MOST_COLUMNS,
    Board,
    Card,
    CardLink,
    PlacementColumn,
    StageRow,
    board,
)


def drawn(drawing):
    return ["".join(run.text for run in line) for line in drawing.lines]


@pytest.fixture(scope="module")
def live(view_at, serving):
    return board(view_at(serving), "read-signs")


def test_every_replica_of_the_plan_has_a_card_with_live_figures(live, view_at, serving):
    view = view_at(serving)
    plan = view.fleet.plans[view.fleet.running["read-signs"].plan].plan
    assert {card.id for card in live.cards} == {r.id for r in plan.replicas}
    models = [card for card in live.cards if card.variant]
    assert all(card.items_per_second is not None and card.busy is not None for card in models)
    assert all(card.precision in ("fp32", "int8") for card in models)
    assert sum(c.items_per_second for c in live.cards if c.stage == "detect") == pytest.approx(
        4, rel=0.5
    )


def test_links_are_the_lanes_summed(live):
    into_detect = [x.share for x in live.links if x.target.startswith("detect@")]
    assert sum(into_detect) == pytest.approx(1.0)
    out_of_photos = [x.share for x in live.links if x.source.startswith("photos@")]
    assert sum(out_of_photos) == pytest.approx(1.0)


def test_columns_are_in_the_order_of_tiers(live):
    tiers = [column.tier for column in live.columns]
    assert tiers == sorted(tiers, key=["edge", "hub", "datacenter"].index)


@pytest.mark.parametrize("slim", [True, False])
@pytest.mark.parametrize("cells", [78, 118, 200])
def test_every_card_and_share_is_drawn(live, cells, slim):
    drawing = draw(live, cells, slim=slim)
    text = "\n".join(drawn(drawing))
    for card in live.cards:
        place = drawing.places[card.id]
        assert drawing.card_at(place.x, place.y) == card.id
        assert drawing.card_at(place.x + place.width - 1, place.y + place.height - 1) == card.id
        if card.variant:
            assert card.variant[:8] in text, "a narrow card cuts it"
    assert text.count("▼") == len(live.links)
    assert all(row.name in text for row in live.rows)


def test_a_lost_device_is_seen_without_colour(view_at, recorded):
    view = view_at(recorded.time_of("device-failed") + 0.05)
    found = board(view, "read-signs")
    lost = [card for card in found.cards if card.lost]
    assert lost
    text = "\n".join(drawn(draw(found, 118)))
    assert "✗" in text
    assert "failed" in text
    assert "╎" in text or "╌" in text


def made(shape, links):
    """A board of stages with so many devices each, and the links by (stage, device) twice."""
    columns = [
        PlacementColumn(f"d{i}", "edge", f"d{i}", DeviceState.READY) for i in range(max(shape))
    ]
    rows = [StageRow(f"s{i}", "model") for i in range(len(shape))]
    cells = {
        (f"s{i}", f"d{j}"): [Card(id=f"s{i}@d{j}", stage=f"s{i}", column=f"d{j}", variant="v")]
        for i, count in enumerate(shape)
        for j in range(count)
    }
    found = [CardLink(f"s{a}@d{b}", f"s{c}@d{d}", 0.5) for a, b, c, d in links]
    return Board(workflow="w", generation=1, columns=columns, rows=rows, cells=cells, links=found)


@st.composite
def boards(draw_):
    shape = draw_(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    ends = st.integers(0, len(shape) - 1).flatmap(
        lambda i: st.tuples(st.just(i), st.integers(0, shape[i] - 1))
    )
    pairs = draw_(st.sets(st.tuples(ends, ends), max_size=8))
    return made(shape, sorted((a, b, c, d) for (a, b), (c, d) in pairs if a < c))


@settings(max_examples=60, deadline=None)
@given(boards(), st.sampled_from([60, 90, 120]))
def test_each_link_ends_in_an_arrow_above_its_card(found, cells):
    drawing = draw(found, cells)
    lines = drawn(drawing)
    arrows = [(x, y) for y, line in enumerate(lines) for x, c in enumerate(line) if c == "▼"]
    targets = {link.target for link in found.links}
    for card in targets:
        place = drawing.places[card]
        above = [x for x, y in arrows if y == place.y - 1 and place.x <= x < place.x + place.width]
        assert len(above) == len({x.source for x in found.links if x.target == card})
    assert len({t.width(line) for line in drawing.lines if line}) <= drawing.width


def test_lanes_that_jump_over_stages_go_down_beside_the_rows():
    found = made([1, 1, 1], [(0, 0, 1, 0), (0, 0, 2, 0), (1, 0, 2, 0)])
    lines = drawn(draw(found, 80))
    row = next(i for i, line in enumerate(lines) if line.startswith("s1"))
    assert "│" in lines[row][:14]


def test_of_many_devices_the_busiest_have_a_column_and_the_others_share_one(view_at, serving):
    import msgspec

    from coordinator.tui.model.placement import planned_board

    view = view_at(serving)
    plan = view.fleet.plans[view.fleet.running["read-signs"].plan].plan
    device = next(d for d in view.fleet.devices.values() if d.name == "cam-1")
    many = {
        f"id-{i}": msgspec.structs.replace(device, id=f"id-{i}", name=f"cam-{i:03}")
        for i in range(100)
    }
    source = plan.replicas[0]
    replicas = [
        msgspec.structs.replace(
            source,
            id=f"detect@cam-{i:03}",
            stage="detect",
            variant="v3",
            device=f"cam-{i:03}",
            utilization=i / 200,
            items_per_second=1.0,
        )
        for i in range(100)
    ]
    wide = msgspec.structs.replace(plan, replicas=replicas, lanes=[])
    from dataclasses import replace

    fleet = msgspec.structs.replace(view.fleet, devices=many)
    found = planned_board(replace(view, fleet=fleet), wide)
    assert len(found.columns) == MOST_COLUMNS
    assert sum(card.replicas for card in found.cards) == 100
    assert sum(card.predicted_items_per_second for card in found.cards) == pytest.approx(100)
