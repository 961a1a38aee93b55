"""What every benchmark relies on: the order of turns, the ratios, and memory that is seen."""

import json
from pathlib import Path

import pytest

import harness

# what the small and the large cases of one fresh process need, and how its allocator was set
PROBE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
from harness import MIB, transient_bytes

def ones(mib):
    return torch.ones(mib * MIB // 4)

held = ones(64)
def view():
    return held.view(-1, 4).t()[1:]

view(), ones(1).sum()  # loads what each case needs of PyTorch, as harness.transient_bytes asks
found = [transient_bytes(view), transient_bytes(lambda: ones(64))]
found.append(transient_bytes(lambda: [ones(64).sum() for _ in range(3)]))
ones(4)
found.append(transient_bytes(lambda: ones(4)))
print("lines before the last one do not count")
print(*found, os.environ["MALLOC_MMAP_THRESHOLD_"], os.environ.get("ANSWER", "0"))
"""


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when a case says how long it took."""
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def case(name, seconds, order):
        durations = iter(seconds)

        def call():
            order.append(name)
            now[0] += next(durations)

        return call

    return case


def test_cases_take_turns_and_warm_up_does_not_count(clock):
    order = []
    cases = {
        "base": clock("base", [9, 1, 2, 4], order),
        "own": clock("own", [9, 3, 5, 6], order),
    }
    seconds = harness.by_turns(cases, 3)
    assert order == ["base", "own"] * 4
    assert seconds == {"base": [1, 2, 4], "own": [3, 5, 6]}


def test_a_lead_in_goes_right_before_each_call_and_is_not_timed(clock):
    order = []
    cases = {"base": clock("base", [9, 9, 1] * 2, order), "own": clock("own", [8, 8, 2] * 2, order)}
    seconds = harness.by_turns(cases, 2, warm_up=0, lead_in=2)
    assert order == (["base"] * 3 + ["own"] * 3) * 2
    assert seconds == {"base": [1, 1], "own": [2, 2]}


def test_a_case_is_judged_by_the_baseline_of_the_same_turn():
    base = [1.0, 10.0, 1.0, 1.0, 1.0]  # a slow moment that both of them meet
    own = [1.5, 15.0, 1.5, 1.4, 1.6]
    timing = harness.compare(own, base)
    assert timing.ratio == pytest.approx(1.5)
    assert timing.low == pytest.approx(1.45)
    assert timing.high == pytest.approx(1.55)
    assert timing.mean_ratio == pytest.approx(21 / 14)
    assert timing.median_ms == pytest.approx(1500)
    assert timing.spread == "1.45 to 1.55"


def test_the_baseline_beside_itself_is_one_and_a_single_turn_has_no_spread():
    timing = harness.compare([0.5, 2.0, 1.0], [0.5, 2.0, 1.0])
    assert (timing.ratio, timing.low, timing.high, timing.mean_ratio) == (1, 1, 1, 1)
    timing = harness.compare([3.0], [2.0])
    assert (timing.ratio, timing.low, timing.high) == (1.5, 1.5, 1.5)


def test_turns_must_be_complete():
    with pytest.raises(ValueError, match="zip"):
        harness.compare([1.0, 2.0], [1.0])


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory: Linux only")
def test_memory_of_an_own_process_is_what_its_tensors_need(tmp_path):
    script = tmp_path / "probe.py"
    script.write_text(PROBE, encoding="utf-8")
    folder = Path(harness.__file__).parent
    numbers = harness.numbers_of_own_process(str(script), [folder], {"ANSWER": "42"})
    view, large, one_by_one, again = (number / harness.MIB for number in numbers[:4])
    assert view < 1
    assert large == pytest.approx(64, abs=2)
    assert one_by_one == pytest.approx(64, abs=2)
    assert again == pytest.approx(4, abs=0.5)  # by default glibc has kept the first one's pages
    assert numbers[4:] == [65536, 42]


def test_a_failing_process_says_why(tmp_path):
    script = tmp_path / "probe.py"
    script.write_text("raise SystemExit('no such case')", encoding="utf-8")
    with pytest.raises(RuntimeError, match="no such case"):
        harness.in_own_process(str(script), [])


def test_tables_and_records_hold_every_row(tmp_path):
    assert harness.markdown(["a", "b"], [[1, "x"]]) == "| a | b |\n| --- | --- |\n| 1 | x |"
    path = tmp_path / "new" / "record.json"
    arguments = type("Arguments", (), {})()
    arguments.turns, arguments.output, arguments.cases, arguments.limit = 3, path, ["a"], None
    harness.write_record(path, arguments, [{"case": "a", "ratio": 1.5}])
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["rows"] == [{"case": "a", "ratio": 1.5}]
    assert record["arguments"] == {"turns": 3, "output": str(path), "cases": ["a"]}
    assert {"date", "machine", "torch", "threads"} <= set(record["environment"])
