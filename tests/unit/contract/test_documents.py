"""JSON documents: a round trip keeps them, and a mistake names its field."""

from typing import Any

import pytest

from tiermesh import ids, limits
from tiermesh.documents.plan import Cost, Lane, MadeFor, Plan, Predicted, Replica, Room, Solver
from tiermesh.documents.problem import BatchTime, Problem
from tiermesh.documents.reading import decode_json, encode_json, to_plain
from tiermesh.errors import InvalidDocument, LimitExceeded

ROOM = Room(batch_size_max=4, latency_p95_ms=20.0, batches=[BatchTime(batch_size=4, mean=0.01)])


def a_plan(seconds: float = 0.1) -> Plan:
    return Plan(
        workflow="w",
        made_for=MadeFor(problem="sha256:0"),
        solver=Solver(
            name="highs",
            status="ok",
            termination="optimal",
            objective=1,
            bound=1,
            gap=0,
            seconds=seconds,
        ),
        cost=Cost(compute_per_hour=1, network_per_hour=0, total_per_hour=1),
        predicted=Predicted(throughput_rps=1, latency_ms={"p95": 3.5}),
        replicas=[Replica(id="s@d", stage="s", device="d", items_per_second=1.5, room=ROOM)],
        lanes=[Lane(share=1, path={"s": "s@d"})],
    )


def test_a_plan_survives_the_round_trip() -> None:
    assert decode_json(encode_json(a_plan()), Plan, "the plan") == a_plan()


def test_the_digest_is_that_of_the_value_not_of_how_it_was_made() -> None:
    again = decode_json(encode_json(a_plan()), Plan, "the plan")
    assert again.digest == a_plan().digest


def test_a_plan_from_before_a_field_was_renamed_is_read_and_keeps_its_digest() -> None:
    """A journal and the devices know it by that digest."""
    plan = decode_json(encode_json(a_plan()), Plan, "the plan")
    text = encode_json(plan).replace(b"items_per_second", b"rate_rps")
    old = decode_json(text, Plan, "the plan")
    assert old == plan
    assert b"rate_rps" not in encode_json(old)
    assert old.digest == ids.digest_value(_as_named_before(plan)) == plan.digest
    with pytest.raises(InvalidDocument, match="items_per_second"):
        decode_json(text.replace(b'"rate_rps": 1.5,', b""), Plan, "the plan")


def _as_named_before(plan: Plan) -> Any:
    plain = to_plain(plan)
    plain["solver"].pop("seconds")
    plain["predicted"].pop("latency_interval_ms")
    for field in ("margin", "spares"):
        plain.pop(field)
    plain["replicas"][0]["rate_rps"] = plain["replicas"][0].pop("items_per_second")
    return plain


def test_the_solvers_running_time_does_not_name_another_plan() -> None:
    assert a_plan(0.1).digest == a_plan(9.9).digest


@pytest.mark.parametrize(
    ("old", "new", "path", "says"),
    [
        (
            b'"items_per_second": 1.5',
            b'"items_per_second": "1"',
            "$.replicas[0].items_per_second",
            "Expected `float`",
        ),
        (b'"share": 1', b'"share": 0', "$.lanes[0].share", "> 0"),
        (b'"gap"', b'"gab"', "$.solver", "Did you mean `gap`?"),
        (b"tiermesh.plan/1", b"tiermesh.plan/2", "$.schema", "tiermesh.plan/2"),
    ],
)
def test_a_mistake_is_named_with_its_place(old: bytes, new: bytes, path: str, says: str) -> None:
    text = encode_json(a_plan())
    assert old in text
    with pytest.raises(InvalidDocument) as caught:
        decode_json(text.replace(old, new), Plan, "the plan")
    assert caught.value.fields["path"] == path
    assert says in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[" * 100_000, b"null"])
def test_what_is_no_document_is_refused_in_words(text: bytes) -> None:
    with pytest.raises(InvalidDocument, match="the problem"):
        decode_json(text, Problem, "the problem")


def test_a_document_above_its_limit_is_not_even_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DOCUMENT_BYTES", 10)
    with pytest.raises(LimitExceeded, match="limit is 10 bytes"):
        decode_json(b" " * 11, Plan, "the plan")
