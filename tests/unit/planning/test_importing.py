"""JellyBean's folders, whole and damaged."""

from __future__ import annotations

import contextlib
import json
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.planning import solve
from coordinator.planning.checking import check
from coordinator.planning.importers.jellybean import problem_from
from tiermesh.errors import InvalidDocument, TiermeshError

SMALL = {
    "workers_specs.csv": "edge-1,0.1\nedge-2,0.2\ncloud,1.0\n",
    "workers_partition.json": '[["edge-1", "edge-2"], ["cloud"]]',
    "workers_workers_link.csv": "edge-1,cloud,1.0\nedge-2,cloud,1.0\ncloud,edge-1,10\n",
    "sources_workers_link.csv": "camera,cloud,1.0\n",
    "logical_graph.csv": "camera,detect\ndetect,track\n",
    "throughput_normalization_ratios.csv": "camera,detect,1.0\ndetect,track,0.5\n",
    "execution_profile.csv": (
        "detect,edge-1,small,100\ndetect,edge-2,small,50,\ndetect,cloud,small,5\n"
        "detect,cloud,large,10\ntrack,cloud,default,4\ntrack,edge-1,default,20\n"
    ),
    "message_sizes.csv": "camera,detect,default,default,100\ndetect,track,small,default,1\n",
    "input_injection_rates.csv": "camera,10\n",
    "accuracy_requirement.json": '{"sink": "track", "threshold": 60}',
    "nodes_accuracy_profiles.json": json.dumps(
        {
            "end_to_end": {
                "operators": ["detect"],
                "accuracy": [
                    {"variants": ["small"], "accuracy": 50},
                    {"variants": ["large"], "accuracy": 70},
                ],
            },
            "operators": [],
        }
    ),
    "config.yaml": "INPUT:\n  COMM_COST_SCALING_FACTOR: 0.1\n  LATENCY_OVERESTIMATE_RATIO: 2.0\nA: None\n",
}


def folder(**changes):
    files = {name: text.encode() for name, text in SMALL.items()}
    for name, data in changes.items():
        key = name.replace("__", ".")
        if data is None:
            del files[key]
        else:
            files[key] = data if isinstance(data, bytes) else data.encode()
    return files


def test_a_folder_of_concrete_workers():
    problem = problem_from(folder())
    check(problem)

    assert [d.name for d in problem.devices] == ["edge-1", "edge-2", "cloud"]
    assert problem.profiles[0].batches[0].mean == pytest.approx(0.2)
    assert {(x.source, x.target): x.price_per_gib for x in problem.links} == {
        ("edge-1", "cloud"): 0.1,
        ("edge-2", "cloud"): 0.1,
        ("camera", "cloud"): 0.1,
    }
    assert problem.edges[1].by_variants[0].bytes_per_item == 1024 * 0.5
    assert solve(problem).predicted.accuracy == pytest.approx(60)


def test_worker_types_become_classes():
    problem = problem_from(folder(workers_numbers__csv="edge-1,5\nedge-2,3\ncloud,0\n"))

    assert {d.name: d.count for d in problem.devices} == {"edge-1": 5, "edge-2": 3}


def test_ratios_per_variant():
    table = "camera,detect,default,small,1.0\ncamera,detect,default,large,0.5\n"
    problem = problem_from(folder(throughput_normalization_ratios_per_variant__csv=table))

    ratios = {row.target_variant: row.ratio for row in problem.edges[0].by_variants if row.ratio}
    assert ratios == {"small": 1.0, "large": 0.5}
    assert solve(problem).predicted.accuracy >= 60 - 1e-9


def test_tiers_are_found_where_none_are_given():
    problem = problem_from(folder(workers_partition__json=None))

    assert [d.tier for d in problem.devices] == ["tier-0", "tier-0", "tier-1"]


DAMAGE = [
    ({"execution_profile__csv": "detect,edge-1,small,fast\n"}, ("execution_profile.csv", 1, 21)),
    ({"workers_specs__csv": "edge-1,0.1\nedge-2\n"}, ("workers_specs.csv", 2, 7)),
    ({"workers_specs__csv": "edge-1,0.1\nedge 2,1\n"}, ("workers_specs.csv", 2, 1)),
    ({"logical_graph__csv": "camera,detect\ndetect,track\nx,track\n"}, ("logical_graph.csv", 3, 1)),
    ({"workers_partition__json": '[["edge-1",]]'}, ("workers_partition.json", 1, 12)),
    ({"accuracy_requirement__json": "{}"}, ("accuracy_requirement.json", 1, 1)),
    ({"config__yaml": "INPUT: [\n"}, ("config.yaml", 2, 1)),
    ({"message_sizes__csv": "camera,track,default,default,1\n"}, ("message_sizes.csv", 1, 1)),
    ({"message_sizes__csv": b"camera,\xff\n"}, ("message_sizes.csv", 1, 8)),
    ({"input_injection_rates__csv": "camera,-1\n"}, ("input_injection_rates.csv", 1, 8)),
]


@pytest.mark.parametrize(("changes", "place"), DAMAGE, ids=lambda x: str(x)[:40])
def test_damage_is_named_by_file_line_and_column(changes, place):
    with pytest.raises(InvalidDocument) as caught:
        problem_from(folder(**changes))

    fields = caught.value.fields
    assert (fields["path"], fields["line"], fields["column"]) == place


def test_a_missing_file_is_named():
    with pytest.raises(InvalidDocument, match=r"message_sizes\.csv"):
        problem_from(folder(message_sizes__csv=None))


class Evil:
    def __reduce__(self):
        return (eval, ("1/0",))


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_that_names_anything_else_is_refused_and_not_run(protocol):
    data = pickle.dumps({"end_to_end_profile": Evil()}, protocol)
    with pytest.raises(InvalidDocument, match="not admitted"):
        problem_from(folder(nodes_accuracy_profiles__json=None, nodes_accuracy_profiles__pkl=data))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(SMALL)), st.data())
def test_no_damage_gives_a_traceback(name, data):
    files = folder()
    original = files[name]
    at = data.draw(st.integers(0, len(original)))
    insert = data.draw(
        st.binary(max_size=4) | st.sampled_from([b",", b"\n", b"None", b"1e999", b'"'])
    )
    files[name] = original[:at] + insert + original[at + data.draw(st.integers(0, 5)) :]
    with contextlib.suppress(TiermeshError):
        check(problem_from(files))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_no_pickle_gives_a_traceback(data):
    files = folder(nodes_accuracy_profiles__json=None, nodes_accuracy_profiles__pkl=data)
    with pytest.raises(TiermeshError):
        problem_from(files)
