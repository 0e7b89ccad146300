"""Files that operators write: what is there twice, what is a date, and what is larger than it looks."""

from pathlib import Path

import pytest

from coordinator.workflows.yaml_files import (
    check_workflow,
    parse_workflow,
    read_fleet_file,
    read_workflow,
)
from tiermesh.errors import InvalidDocument, LimitExceeded

FIELD = Path(__file__).parents[4] / "shared" / "cases" / "inputs" / "workflows"
SOURCE = "{source: files, path: in, rate: 5/s}"
TEXT = f"""workflow: w
slo: {{rate: 5/s}}
stages:
  photos: {SOURCE}
  out: {{sink: jsonl, path: out.jsonl, from: photos}}
"""


@pytest.mark.parametrize(
    ("before", "after", "path", "places"),
    [
        ("rate: 5/s}\n  out", "rate: 5/s, rate: 500/s}\n  out", "$.stages.photos.rate", (4, 4)),
        ("stages:", "slo: {rate: 9/s}\nstages:", "$.slo", (2, 3)),
        ("  out:", f"  photos: {SOURCE}\n  out:", "$.stages.photos", (4, 5)),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_both_places(before, after, path, places):
    with pytest.raises(InvalidDocument, match="is there twice") as caught:
        check_workflow(TEXT.replace(before, after))
    assert caught.value.fields["path"] == path
    first, second = (caught.value.why.index(f"line {n}, column", i) for i, n in enumerate(places))
    assert first <= second


def test_a_fleet_file_is_read_by_the_same_rules(tmp_path):
    file = tmp_path / "fleet.yaml"
    file.write_text("tiers: [edge]\ntiers: [hub]\n")
    with pytest.raises(
        InvalidDocument, match="`tiers` is there twice: line 1, column 1, and line 2"
    ):
        read_fleet_file(file)


def test_a_merge_may_be_overridden():
    found = check_workflow(TEXT.replace(SOURCE, "{<<: &it " + SOURCE + ", rate: 9/s}"))
    assert found.offered_rps("photos") == 9.0


def test_what_the_journal_has_is_read_as_it_was_taken():
    text = TEXT.replace("stages:", "slo: {rate: 9/s}\nstages:")
    assert parse_workflow(text).slo.rate == 9.0


@pytest.mark.parametrize("date", ["2024-02-30", "2024-02-28", "2024-13-45 10:00:00"])
def test_a_date_is_an_error_at_its_field(date):
    with pytest.raises(InvalidDocument, match=f"{date} is a date: line 1, column 11") as caught:
        check_workflow(TEXT.replace("workflow: w", f"workflow: {date}"))
    assert caught.value.fields["path"] == "$.workflow"
    assert check_workflow(TEXT.replace("workflow: w", 'workflow: "2024-02-30"')).workflow


@pytest.mark.parametrize(
    "value", ["!!int x", "!!float x", "!!timestamp x", pytest.param("[" * 2_000, id="deep")]
)
def test_what_yaml_cannot_construct_is_one_error(value):
    with pytest.raises(InvalidDocument, match="the workflow"):
        check_workflow(f"workflow: {value}")


def test_references_count_as_what_they_stand_for():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(LimitExceeded, match="too many values"):
        check_workflow("\n".join(lines))


def test_a_reference_to_itself_is_refused():
    with pytest.raises(InvalidDocument, match="line 2, column 6 refers to itself"):
        check_workflow("workflow: w\nslo: &a [*a]\n")


@pytest.mark.parametrize("rate", ["0/s", "0.0 /min", "1e999/s"])
def test_a_rate_that_means_nothing_is_refused(rate):
    with pytest.raises(InvalidDocument, match="it must be above 0") as caught:
        check_workflow(TEXT.replace("slo: {rate: 5/s}", f"slo: {{rate: {rate}}}"))
    assert caught.value.fields["path"] == "$.slo.rate"


@pytest.mark.parametrize("slo", ["latency: {p95: 0 ms}", "deadline: 0 s", "confidence: 150 %"])
def test_other_asks_that_mean_nothing_are_refused(slo):
    with pytest.raises(InvalidDocument, match="it must be"):
        check_workflow(TEXT.replace("slo: {rate: 5/s}", f"slo: {{{slo}}}"))


@pytest.mark.skipif(not FIELD.is_dir(), reason="the workflows from the field are not here")
@pytest.mark.parametrize("name", ["date", "dup-key", "dup-slo", "zero-rate"])
def test_workflows_from_the_field_are_refused(name):
    with pytest.raises(InvalidDocument, match=r"the workflow is wrong at `\$"):
        read_workflow(FIELD / f"{name}.yaml")
