"""`coordinator batching` as it is typed: files in, one JSON document, a table or a picture out, and its exit code."""

import json

import numpy as np
import pytest

from coordinator.cli import main

HOURS = {
    "Shop": {
        "1": {"D0": [[-10.5, 0.5], [0.5, -120.5]], "D1": [[10.0, 0.0], [0.0, 120.0]]},
        "2": {"D0": [[-40.0]], "D1": [[40.0]]},
        "10": {"D0": [[-12.0, 1.0], [2.0, -90.0]], "D1": [[11.0, 0.0], [0.0, 88.0]]},
    }
}
TERMS = [[0.6, 0, 0], [0.15, 1, 0], [-0.0001, 0, 1]]
FUNCTION = {
    "models": {"net": {"terms": TERMS}},
    "prices": {"usd_per_gb_second": 1.66667e-05, "usd_per_invocation": 2e-07},
    "grid": {
        "memory_mb": {"from": 1024, "to": 2048, "step": 512},
        "timeout_s": {"from": 0.05, "to": 0.45, "step": 0.1},
        "batch_size_published": 20,
    },
}
TABLE = {"batch_seconds": {"1": 0.005, "2": 0.006, "4": 0.008, "8": 0.012}}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps.json").write_text(json.dumps(HOURS))
    (tmp_path / "function.json").write_text(json.dumps(FUNCTION))
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    return tmp_path


@pytest.fixture
def ask(files, capsys):
    """Run the command with --json: (exit code, document)."""

    def run(line):
        code = main(["batching", *line.split(), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def trace(files, times):
    (files / "trace.txt").write_text("\n".join(str(t) for t in times))


def test_one_hour_answers_in_the_form_of_the_contract(ask):
    code, answer = ask("--arrivals maps.json#Shop/1 --service function.json#net --latency-slo 3")
    assert code == 0
    chosen = answer["chosen"]
    assert chosen["latency_s"]["p95"] <= 3
    assert chosen["latency_s"]["p50"] <= chosen["latency_s"]["p95"] <= chosen["latency_s"]["p99"]
    assert chosen["memory_mb"] in {1024, 1536, 2048}
    assert chosen["utilization"] is None
    assert answer["evaluated"] == 20 * 5 * 3
    assert 0 < answer["feasible"] <= answer["evaluated"]
    assert answer["seconds"] > 0
    assert answer["baseline"]["batch_size"] == 20
    assert answer["baseline"]["cost_per_request_usd"] > chosen["cost_per_request_usd"]


def test_latency_is_minimised_within_a_cost(ask):
    line = "--arrivals maps.json#Shop/1 --service function.json --batch 1:8 --frontier --cost-slo"
    _, loose = ask(f"{line} 1e-5")
    code, tight = ask(f"{line} 6e-6")
    assert code == 0
    assert tight["chosen"]["cost_per_request_usd"] <= 6e-6
    assert loose["chosen"]["latency_s"]["p95"] < tight["chosen"]["latency_s"]["p95"]
    costs = [point["cost_per_request_usd"] for point in tight["frontier"]]
    assert costs == sorted(costs)


def test_an_infeasible_hour_does_not_stop_the_others(ask):
    code, answer = ask(
        "--arrivals maps.json#Shop --service function.json --batch 4:8 --timeout-s 0.05 --cost-slo 4.5e-6"
    )
    assert code == 3
    rows = {row["hour"]: row for row in answer["hours"]}
    assert list(rows) == ["1", "2", "10"], "hours are in order of their numbers"
    assert answer["infeasible_hours"] == ["2", "10"]
    for name, row in rows.items():
        if name in answer["infeasible_hours"]:
            assert row["chosen"] is None
            nearest = row["infeasible"]["nearest"]
            assert nearest["cost_per_request_usd"] == row["infeasible"]["nearest_slo"] > 4.5e-6
        else:
            assert row["chosen"]["cost_per_request_usd"] <= 4.5e-6
    assert "failed" in rows["2"]["baseline"], "BATCH cannot read a Poisson process"


def test_each_hour_is_configured_from_those_before_it(ask):
    code, answer = ask(
        "--arrivals maps.json#Shop --forecast --service function.json --latency-slo 2"
    )
    assert code == 0
    first, *others = answer["hours"]
    assert first["chosen"] is None
    assert first["skipped"]
    for row in others:
        assert row["chosen"]["latency_s"]["p95"] <= 2
        assert row["actual"]["batch_size"] == row["chosen"]["batch_size"]
        assert row["actual"]["meets_slo"] == (row["actual"]["latency_s"]["p95"] <= 2)


def test_one_device_at_a_rate(ask):
    code, answer = ask("--rate 200 --service table.json --latency-slo 0.03")
    assert code == 0
    assert answer["chosen"]["memory_mb"] is None
    assert answer["chosen"]["latency_s"]["p95"] <= 0.03
    assert 0 < answer["chosen"]["utilization"] < 1
    assert answer["chosen"]["cost_per_request_usd"] == 0


def test_a_device_by_the_hour_has_a_cost(ask):
    line = "--rate 200 --service table.json --servers 2 --usd-per-hour 3.6 --latency-slo 0.03"
    code, answer = ask(line)
    assert code == 0
    chosen = answer["chosen"]
    assert chosen["cost_per_request_usd"] == pytest.approx(
        chosen["device_seconds_per_request"] * 0.001
    )


def test_overload_says_that_nothing_can_serve_it(ask):
    code, answer = ask("--rate 5000 --service table.json --latency-slo 0.03")
    assert code == 3
    assert answer["infeasible"]["nearest"] is None
    assert "more requests arrive" in answer["infeasible"]["why"]


def test_a_trace_is_fitted_and_replayed(ask, files):
    times = np.cumsum(np.random.default_rng(3).exponential(1 / 150, 4_000))
    trace(files, times)
    code, answer = ask("--trace trace.txt --service table.json --latency-slo 0.03")
    assert code == 0
    assert answer["arrivals"]["fit"]["process"] == "poisson"
    assert answer["arrivals"]["fit"]["ks"] < answer["arrivals"]["fit"]["ks_limit"]
    assert answer["arrivals"]["rate_rps"] == pytest.approx(150, rel=0.05)


def test_windows_of_a_trace_are_hours_and_empty_ones_are_absent(ask, files):
    generator = np.random.default_rng(3)
    parts = [np.sort(generator.uniform(60 * i, 60 * i + 59, 3_000)) for i in (0, 1, 3)]
    trace(files, np.concatenate([*parts, [310.0]]))
    code, answer = ask(
        "--trace trace.txt --forecast --window-s 60 --service table.json --latency-slo 0.05"
    )
    assert code == 0
    rates = {row["hour"]: row["arrivals"]["rate_rps"] for row in answer["hours"]}
    assert list(rates) == ["1", "2", "3", "4", "6"], "of the third, two arrivals of a rounded bound"
    assert rates["3"] < 1
    assert rates["4"] > 45
    assert rates["6"] == pytest.approx(0.1, rel=0.1)
    assert all(row["actual"]["meets_slo"] for row in answer["hours"][1:])


def test_unsorted_and_equal_timestamps_are_mended_and_told(files, capsys):
    trace(files, [3.0, 1.0, 2.0, 2.0, *np.linspace(4, 9, 40)])
    assert (
        main(
            ["batching", "--trace", "trace.txt", "--service", "table.json", "--latency-slo", "0.1"]
        )
        == 0
    )
    told = capsys.readouterr().err
    assert "1 timestamps are out of order" in told
    assert "1 timestamps are equal" in told


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "empty"),
        ("# only a comment\n", "empty"),
        ("1.0\nsoon\n", "line 2"),
        ("1\nnan\n", "line 2"),
        ("7\n7\n", "no rate"),
    ],
)
def test_what_is_no_trace_is_misuse(files, capsys, content, why):
    (files / "trace.txt").write_text(content)
    assert (
        main(["batching", "--trace", "trace.txt", "--service", "table.json", "--latency-slo", "1"])
        == 2
    )
    assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--arrivals maps.json#Shup/1 --service table.json --latency-slo 1", "Shop"),
        ("--arrivals maps.json --service table.json --latency-slo 1", "Shop"),
        ("--rate -1 --service table.json --latency-slo 1", "rate"),
        ("--rate 1 --service function.json#nett --latency-slo 1", "net"),
        ("--rate 1 --service maps.json --latency-slo 1", "service times"),
        ("--rate 1 --service table.json --batch 1:64 --latency-slo 1", "up to 8"),
        ("--rate 1 --service table.json --batch 4:2 --latency-slo 1", "--batch"),
        ("--rate 1 --service table.json --timeout-s 1:0:1 --latency-slo 1", "A:B:STEP"),
        ("--rate 1 --service table.json --servers none --latency-slo 1", "unlimited"),
        ("--rate 1 --service table.json --latency-slo -1", "positive"),
        ("--rate 1 --service table.json --latency-slo 1 --percentile 0.42", "--percentile"),
        ("--rate 1 --service table.json --latency-slo 1 --forecast", "--forecast"),
        ("--rate 1 --service function.json --memory-mb 16384 --latency-slo 1", "takes"),
        ("--rate 1 --service table.json --latency-slo 1 --plot x.pdf", ".svg"),
    ],
)  # fmt: skip
def test_misuse_is_told_with_what_is_allowed(files, capsys, line, why):
    assert main(["batching", *line.split()]) == 2
    assert why in capsys.readouterr().err


def test_a_file_that_is_not_there(files, capsys):
    assert (
        main(
            ["batching", "--trace", "nowhere.txt", "--service", "table.json", "--latency-slo", "1"]
        )
        == 1
    )
    assert "nowhere.txt cannot be read" in capsys.readouterr().err


def test_people_see_a_table_and_the_frontier(files, capsys):
    line = "batching --rate 200 --service table.json --latency-slo 0.03 --frontier"
    assert main(line.split()) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown
    assert "no setting is better in both" in shown


@pytest.mark.parametrize("name", ["choice.svg", "choice.png"])
def test_a_picture_is_drawn(files, name):
    pytest.importorskip("matplotlib", reason="the extra `plot` is not installed")
    line = (
        f"batching --arrivals maps.json#Shop --service function.json --latency-slo 2 --plot {name}"
    )
    assert main(line.split()) == 0
    assert (files / name).stat().st_size > 5_000


def test_the_published_grid_is_answered_as_its_own_files_have_it(published_data, capsys):
    line = (
        f"batching --arrivals {published_data}/maps.json#Twitter/1"
        f" --service {published_data}/service.json#TF-inceptionV4"
        " --memory-mb 1280:3008:64 --batch 1:20 --timeout-s 0.01:0.49:0.01 --latency-slo 9 --json"
    )
    assert main(line.split()) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["evaluated"] == 27_440
    assert answer["chosen"]["latency_s"]["p95"] <= 9
    assert answer["chosen"]["cost_per_request_usd"] < answer["baseline"]["cost_per_request_usd"]
