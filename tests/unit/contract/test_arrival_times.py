"""Recorded arrivals are read alike wherever they are read, and what is no time is named with its line."""

from pathlib import Path

import pytest

from coordinator.cli.arrivals import with_arrivals
from coordinator.planning.batching.documents import read_timestamps
from coordinator.planning.simulate import SimulatedLoad
from tiermesh import arrival_times, limits
from tiermesh.errors import InvalidDocument, LimitExceeded

FIELD = Path(__file__).parents[4] / "shared" / "cases" / "inputs" / "traces"


@pytest.mark.parametrize(
    "data",
    [
        b"0.5\n1.25\n\n",
        b"\xef\xbb\xbf0.5\n1.25",
        b"# recorded\r\n0.5\r\n  1.25\r\n# end\r\n",
        b"1612137600.5\n1612137601.25\n",
        b"-0.75\n0\n",
    ],
)
def test_times_count_from_the_first_one(data):
    assert arrival_times.read(data, "trace") == [0.0, 0.75]


@pytest.mark.parametrize(
    ("data", "line", "why"),
    [
        (b"0.0\nnan\n1.0\n", 2, "not a finite number"),
        (b"0.0\n1.0\ninf\n", 3, "not a finite number"),
        (b"# x\n-Infinity\n", 2, "not a finite number"),
        (b"1e999\n", 1, "not a finite number"),
        (b"timestamp\n0.0\n", 1, "not a number"),
        (b"0.0\n# x\n2.0\n1.5\n", 4, "it is before 2"),
    ],
)
def test_what_is_no_time_is_named_with_its_line(data, line, why):
    with pytest.raises(InvalidDocument, match=f"line {line} of trace.*{why}") as caught:
        arrival_times.read(data, "trace")
    assert caught.value.fields["line"] == line


@pytest.mark.parametrize("data", [b"", b"\n\n", b"# nothing\n"])
def test_a_trace_without_times_is_refused(data):
    with pytest.raises(InvalidDocument, match="has no times"):
        arrival_times.read(data, "trace")


def test_what_is_not_text_is_refused():
    with pytest.raises(InvalidDocument, match="is not text"):
        arrival_times.read(b"\xff\xfe0\x00", "trace")


def test_a_trace_has_a_limit(monkeypatch):
    monkeypatch.setattr(limits, "TRACE_ARRIVALS", 2)
    assert arrival_times.raw(b"2\n1\n", "trace") == [2.0, 1.0]
    with pytest.raises(LimitExceeded, match="more than 2 times"):
        arrival_times.raw(b"1\n2\n3\n", "trace")


def test_a_simulation_and_batching_read_the_same(tmp_path):
    file = tmp_path / "trace.txt"
    file.write_bytes(b"\xef\xbb\xbf# x\n1612137600.5\n1612137601.25\n")
    assert with_arrivals(SimulatedLoad(), str(file), 1.0).times == [0.0, 0.75]
    raw = read_timestamps(file.read_bytes(), "trace").tolist()
    assert raw == [1612137600.5, 1612137601.25]
    file.write_bytes(b"0.0\nnan\n")
    with pytest.raises(InvalidDocument, match="line 2 of"):
        with_arrivals(SimulatedLoad(), str(file), 1.0)


@pytest.mark.skipif(not FIELD.is_dir(), reason="the traces from the field are not here")
@pytest.mark.parametrize(
    ("name", "refused"),
    [
        ("bom", False),
        ("comment", False),
        ("epoch-seconds", False),
        ("header", True),
        ("inf", True),
        ("nan", True),
    ],
)
def test_traces_from_the_field(name, refused):
    data = (FIELD / f"{name}.txt").read_bytes()
    if refused:
        with pytest.raises(InvalidDocument, match=r"line \d+ of"):
            arrival_times.read(data, name)
    else:
        times = arrival_times.read(data, name)
        assert times[0] == 0.0
        assert times[-1] < 3_600
