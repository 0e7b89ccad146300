"""The commands of planning, as they are called: files in, one JSON document out, exit codes that say what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from coordinator.cli import main
from tiermesh.documents.plan import Plan
from tiermesh.documents.reading import decode_json

PROBLEM = {
    "schema": "tiermesh.problem/1",
    "name": "signs",
    "tiers": ["edge", "hub"],
    "devices": [
        {"name": "cam", "tier": "edge", "price_per_hour": 0.1},
        {"name": "hub", "tier": "hub", "price_per_hour": 1.0},
    ],
    "stages": [
        {"name": "photos", "kind": "source", "rate_rps": 9, "external": True},
        {"name": "read", "kind": "model", "variants": ["small", "large"]},
        {"name": "out", "kind": "sink"},
    ],
    "links": [{"from": "photos", "to": "hub", "price_per_gib": 10}],
    "edges": [
        {"from": "photos", "to": "read", "bytes_per_item": 100000},
        {"from": "read", "to": "out"},
    ],
    "profiles": [
        {"stage": "read", "variant": v, "device": d, "batches": [{"batch_size": 1, "mean": t}]}
        for v, d, t in (
            ("small", "cam", 0.1),
            ("large", "cam", 0.4),
            ("small", "hub", 0.01),
            ("large", "hub", 0.02),
        )
    ],
    "accuracy": {
        "table": [
            {"variants": {"read": "small"}, "accuracy": 0.8},
            {"variants": {"read": "large"}, "accuracy": 0.9},
        ]
    },
    "asks": {"accuracy_at_least": 0.82},
}


@pytest.fixture
def problem_file(tmp_path):
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(PROBLEM))
    return path


@pytest.fixture
def plan_file(tmp_path, problem_file, run):
    path = tmp_path / "plan.json"
    assert run("plan", problem_file, "-o", path)[0] == 0
    return path


@pytest.fixture
def run(capsys):
    """Run a command with --json; gives (exit code, document)."""

    def call(*words):
        code = main([*map(str, words), "--json"])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    return call


def test_a_plan_has_the_fields_that_it_promises(run, problem_file):
    code, plan = run("plan", problem_file)

    assert code == 0
    assert set(plan["cost"]) == {
        "compute_per_hour",
        "network_per_hour",
        "serverless_per_hour",
        "total_per_hour",
    }
    assert set(plan["solver"]) == {
        "name", "status", "termination", "objective", "bound", "gap", "seconds"
    }  # fmt: skip
    assert {"p50", "p95", "p99"} <= set(plan["predicted"]["latency_ms"])
    assert plan["predicted"]["accuracy"] == pytest.approx(0.82)
    assert plan["predicted"]["throughput_rps"] == 9
    assert sum(lane["share"] for lane in plan["lanes"]) == pytest.approx(1)


def test_a_confidence_is_asked_for_in_percent_and_priced(run, problem_file):
    code, plan = run("plan", problem_file, "--confidence", "95%", "--frontier")

    assert code == 0
    assert plan["margin"]["confidence"] == 0.95
    assert min(plan["margin"]["device_time_factor"].values()) == 1.25
    assert plan["margin"]["price_per_hour"] >= 0
    assert [p["confidence"] for p in plan["margin"]["frontier"]] == [None, 0.9, 0.95, 0.99]
    assert run("plan", problem_file)[1]["margin"] is None
    assert run("plan", problem_file, "--confidence", "95%", "--no-margin")[1]["margin"] is None
    assert run("plan", problem_file, "--confidence", "30%")[0] == 2


def test_a_plan_is_played_on_slower_devices(run, plan_file):
    seconds = [
        run("simulate", plan_file, *slower)[1]["latency_ms"]["p50"]
        for slower in ([], ["--slower", "25 %"])
    ]
    assert seconds[1] > 1.2 * seconds[0]


def test_a_margin_is_told_in_a_sentence(capsys, problem_file):
    main(["plan", str(problem_file), "--confidence", "95%", "--frontier"])
    told = capsys.readouterr().out
    assert "margin: 95 % confidence, devices may be 25% slower; costs" in told
    assert "99 % instead of 95 % costs" in told


@pytest.mark.parametrize("strategy", ["exact", "greedy", "exhaustive"])
@pytest.mark.parametrize("objective", ["cost", "throughput", "accuracy", "latency", "power"])
def test_every_strategy_and_objective_answers(run, problem_file, strategy, objective):
    code, plan = run("plan", problem_file, "--strategy", strategy, "--objective", objective)

    assert code == 0
    assert plan["replicas"]


def test_infeasible_is_exit_code_3_with_the_clash(run, tmp_path):
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(PROBLEM | {"asks": {"accuracy_at_least": 0.95}}))
    code, document = run("plan", path)

    assert code == 3
    assert [c["ask"] for c in document["error"]["clash"]] == ["accuracy"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "tiermesh.problem/1"}', "\x00"])
def test_a_broken_problem_file_is_exit_code_2(run, tmp_path, text):
    path = tmp_path / "problem.json"
    path.write_text(text)
    code, document = run("plan", path)

    assert code == 2
    assert document["error"]["what"]


def test_a_plan_is_explained_simulated_and_compared(run, plan_file, problem_file, tmp_path):
    code, why = run("explain", plan_file)
    assert code == 0
    assert {r["replica"] for r in why["replicas"]}
    assert any("accuracy" in row["constraint"] for row in why["binding"])

    code, outcome = run("simulate", plan_file, "--load", "0.5", "--requests", "500")
    assert code == 0
    assert outcome["throughput_rps"] == pytest.approx(4.5, rel=0.15)

    other = tmp_path / "other.json"
    assert run("plan", problem_file, "--single-variant", "-o", other)[0] == 0
    code, difference = run("diff", other, plan_file)
    assert code == 0
    assert difference["cost_per_hour"] >= 0


@pytest.fixture
def overflowing_file(tmp_path):
    """Where functions are cheaper than a device of one's own."""
    problem = json.loads(json.dumps(PROBLEM))
    problem["devices"][0]["price_per_hour"] = problem["devices"][1]["price_per_hour"] = 9.0
    terms = {"usd_per_gb_second": 1.66667e-5, "usd_per_call": 2e-7}
    problem["devices"].append({"name": "lambda", "tier": "hub", "serverless": terms})
    problem["stages"][2]["devices"] = ["cam"]
    problem["profiles"] += [
        {
            "stage": "read",
            "variant": variant,
            "device": "lambda",
            "memory_mb": 2048,
            "batches": [{"batch_size": 1, "mean": 0.05}, {"batch_size": 4, "mean": 0.1}],
        }
        for variant in ("small", "large")
    ]
    path = tmp_path / "overflowing.json"
    path.write_text(json.dumps(problem))
    return path


def test_functions_show_in_tables_and_documents(run, overflowing_file, tmp_path, capsys):
    plan_file = tmp_path / "plan.json"
    code, plan = run("plan", overflowing_file, "-o", plan_file)
    assert code == 0
    assert plan["cost"]["serverless_per_hour"] > 0
    functions = [r["function"] for r in plan["replicas"] if r["function"]]
    assert functions
    assert all(f["memory_mb"] == 2048 and f["usd_per_item"] > 0 for f in functions)

    assert main(["plan", str(overflowing_file)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "serverless" in shown
    assert "USD per million" in shown

    code, outcome = run("simulate", plan_file)
    assert code == 0
    assert outcome["servers"]["lambda"] > 0
    assert outcome["serverless_per_hour"] == pytest.approx(
        plan["cost"]["serverless_per_hour"], rel=0.1
    )
    code, explanation = run("explain", plan_file)
    assert code == 0
    assert any("lambda" in why["replica"] for why in explanation["replicas"])


def test_a_plan_is_played_through_with_recorded_and_with_bursty_arrivals(run, plan_file, tmp_path):
    trace = tmp_path / "arrivals.txt"
    trace.write_text("".join(f"{10 + i / 4}\n" for i in range(41)))
    code, recorded = run("simulate", plan_file, "--arrivals", trace)
    assert code == 0
    assert (recorded["completed"], recorded["offered_rps"]) == (41, pytest.approx(4.0))

    maps = tmp_path / "maps.json"
    bursts = {"D0": [[-0.6, 0.1], [0.5, -50.5]], "D1": [[0.5, 0], [0, 50.0]]}
    maps.write_text(json.dumps({"bursts": bursts}))
    code, bursty = run("simulate", plan_file, "--arrivals", f"{maps}#bursts", "--load", "0.5")
    assert code == 0
    _, poisson = run("simulate", plan_file, "--arrivals", "poisson", "--load", "0.5")
    assert bursty["offered_rps"] == pytest.approx(poisson["offered_rps"], rel=0.3)
    assert bursty["latency_ms"]["p95"] > 2 * poisson["latency_ms"]["p95"]

    code, wrong = run("simulate", plan_file, "--arrivals", "sometimes")
    assert code == 2
    assert "poisson" in wrong["error"]["what"]


def test_a_plan_without_its_problem_says_what_to_do(run, plan_file):
    plan_file.with_name("plan.problem.json").unlink()
    code, document = run("explain", plan_file)

    assert code == 2
    assert "--problem" in document["error"]["fix"]


def test_another_problem_is_refused(run, plan_file, tmp_path):
    other = tmp_path / "other-problem.json"
    other.write_text(json.dumps(PROBLEM | {"name": "another"}))
    code, document = run("simulate", plan_file, "--problem", other)

    assert code == 1
    assert document["error"]["kind"] == "digest-mismatch"


def test_a_device_that_fails_half_way(run, plan_file):
    code, outcome = run("simulate", plan_file, "--fail", "hub", "--requests", "400")

    assert code == 0
    assert outcome["lost"] + outcome["moved_to_backup"] > 0


def test_an_import_of_no_folder_is_misuse(run, tmp_path):
    code, document = run("import", "jellybean", tmp_path / "none")

    assert code == 2
    assert "not a folder" in document["error"]["what"]


def test_an_import_of_an_empty_folder_names_the_first_file_that_lacks(run, tmp_path):
    code, document = run("import", "jellybean", tmp_path)

    assert code == 2
    assert "workers_specs.csv" in document["error"]["what"]


@pytest.mark.parametrize("words", [("--gap", "nan"), ("--gap", "-1"), ("--time-limit", "-3")])
def test_an_effort_that_is_no_number_is_misuse(run, problem_file, words):
    code, document = run("plan", problem_file, *words)

    assert code == 2
    assert "zero or more" in document["error"]["why"]


def test_the_same_plan_in_every_process(problem_file):
    """Nothing follows from the order of sets, which differs from process to process."""
    digests = {_digest(problem_file, seed) for seed in ("1", "2", "3")}

    assert len(digests) == 1


def _digest(problem_file, seed):
    words = [sys.executable, "-m", "coordinator.cli", "plan", str(problem_file), "--json"]
    done = subprocess.run(
        words, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
    )
    return decode_json(done.stdout, Plan, "the plan").digest


@pytest.mark.parametrize("command", ["explain", "simulate", "diff"])
def test_a_plan_is_shown_as_it_is_written(command, problem_file, tmp_path, capsys):
    """Ids are free text: what looks like the terminal's markup is none."""
    plan = tmp_path / "plan.json"
    assert main(["plan", str(problem_file), "-o", str(plan)]) == 0
    odd = json.loads(plan.read_text())
    for replica in odd["replicas"]:
        replica["id"] += "[/red]"
    for lane in odd["lanes"]:
        lane["path"] = {stage: id_ + "[/red]" for stage, id_ in lane["path"].items()}
        lane["backup"] = {}
    (tmp_path / "odd.json").write_text(json.dumps(odd))
    (tmp_path / "odd.problem.json").write_text(problem_file.read_text())
    capsys.readouterr()
    code = main([command, str(tmp_path / "odd.json"), *([str(plan)] if command == "diff" else [])])
    assert code == 0
    assert ("[/red]" in capsys.readouterr().out) == (command == "explain")
