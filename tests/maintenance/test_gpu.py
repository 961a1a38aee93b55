"""What ``make gpu`` runs and writes; here by commands that need no GPU."""

import json
import sys
import time
from dataclasses import replace

import psutil
import pytest
import torch

import gpu
from gpu import ENDED_WELL, FAILED, NOT_RUN, STOPPED, Device, Outcome, Part

WRITES = """
import json, sys
print("| keys | time |")
with open(sys.argv[1], "w") as record:
    json.dump({"rows": [1, 2]}, record)
"""
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
JUNIT = """
<testsuites><testsuite>
<testcase classname="tests.a" name="one"/>
<testcase classname="tests.a" name="two"><failure message="no"/></testcase>
<testcase classname="tests.a" name="three"><error message="no"/></testcase>
<testcase classname="tests.b" name="four"><skipped message="no bitsandbytes"/></testcase>
</testsuite></testsuites>
"""
DEVICE = Device("Some GPU", {"torch": "2.13.0"})


def part(code, name="one", limit=60.0):
    return Part(name, f"Part {name}", ("-c", code, "{output}"), limit)


def test_a_part_leaves_its_tables_and_its_record(tmp_path):
    found = gpu.run(part(WRITES), tmp_path, 60)
    assert found.verdict == ENDED_WELL
    assert found.printed == "| keys | time |\n"
    assert found.record == {"rows": [1, 2]}
    assert found.complaint == ""


def test_a_failing_part_keeps_what_it_wrote_and_says_why(tmp_path):
    found = gpu.run(part(WRITES + "\nraise MemoryError('full')"), tmp_path, 60)
    assert found.verdict == FAILED
    assert found.record == {"rows": [1, 2]}
    assert found.complaint.endswith("MemoryError: full")


def test_a_record_of_an_earlier_run_is_not_taken_for_this_ones(tmp_path):
    (tmp_path / "one.json").write_text('{"rows": [3]}')
    assert gpu.run(part("1 / 0"), tmp_path, 60).record is None


def test_a_part_that_hangs_is_stopped_with_what_it_started(tmp_path):
    found = gpu.run(part(HANGS), tmp_path, 6)
    assert found.verdict == STOPPED
    assert has_ended(int(found.printed))


def has_ended(process):
    """Whether it does within half a minute, since a busy machine takes a while for a signal."""
    for _ in range(300):
        try:
            if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


def test_one_failure_does_not_lose_the_others_and_time_is_kept(tmp_path, monkeypatch):
    times = iter([0.0, 0.0, 40.0, 97.0, 99.0])
    limits = []

    def run(each, folder, limit):
        limits.append(limit)
        return Outcome(each, FAILED if each.name == "a" else ENDED_WELL)

    monkeypatch.setattr(gpu, "run", run)
    todo = [part("", name, limit=70) for name in "abcd"]
    found = list(gpu.run_all(todo, tmp_path, 100, clock=lambda: next(times)))
    assert [each.verdict for each in found] == [FAILED, ENDED_WELL, NOT_RUN, NOT_RUN]
    assert limits == [70, 60]


def test_tests_are_counted_and_those_that_did_not_pass_are_named():
    assert gpu._tests(JUNIT) == {
        "passed": 1,
        "failed": ["tests.a::two", "tests.a::three"],
        "skipped": ["tests.b::four: no bitsandbytes"],
    }


def test_the_page_names_device_commands_results_and_tables():
    tests = replace(part("x", "tests"), is_test=True)
    outcomes = [
        Outcome(tests, FAILED, 12.4, "noise", "the end", gpu._tests(JUNIT)),
        Outcome(part("y", "two"), ENDED_WELL, 30.6, "| keys |\n|---|\n| 512 |\n", record={}),
        Outcome(part("z", "three"), NOT_RUN, complaint="no time was left"),
    ]
    page = gpu.page(DEVICE, outcomes)
    assert page.startswith("# On Some GPU\n")
    assert "| Part tests | failed: 1 passed, 2 failed, 1 skipped | 12 | `python -c x` |" in page
    assert "| Part two | ended well | 31 | `python -c y` |" in page
    assert "- failed: `tests.a::two`" in page
    assert "- skipped: `tests.b::four: no bitsandbytes`" in page
    assert "noise" not in page
    assert page.count("On Some GPU; ") == 3
    assert page.index("| 512 |") < page.index("no time was left")


def test_both_files_are_written_after_each_part_and_faults_are_told(tmp_path, monkeypatch, capsys):
    todo = [part(WRITES, "first"), part("raise SystemExit(3)", "second"), part(WRITES, "third")]
    monkeypatch.setattr(gpu, "parts", lambda device: todo)
    monkeypatch.setattr(gpu, "find_device", lambda kind: DEVICE)
    command = ["--output", str(tmp_path), "--only", "first", "second"]
    assert gpu.main(command) == 1
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["device"]["name"] == "Some GPU"
    assert [each["verdict"] for each in found["parts"]] == [ENDED_WELL, FAILED]
    assert found["parts"][0]["record"] == {"rows": [1, 2]}
    assert (tmp_path / "gpu.md").read_text().count("## Part") == 2
    assert "second: failed" in capsys.readouterr().out
    assert gpu.main(["--output", str(tmp_path), "--only", "third"]) == 0
    with pytest.raises(SystemExit):
        gpu.main(["--only", "fourth"])
    assert "--only: fourth; there are first, second, third" in capsys.readouterr().err


def test_without_a_gpu_it_says_how_to_get_the_build(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(SystemExit, match=r"is built without CUDA; give its build .* TORCH="):
        gpu.find_device("cuda")
    assert "mean nothing" in gpu.find_device("cpu").name


def test_limits_leave_time_for_the_environment():
    todo = gpu.parts("cuda")
    assert len({each.name for each in todo}) == len(todo)
    assert sum(each.limit for each in todo) < 8 * 60  # of ten minutes
    assert todo[0].is_test


@pytest.mark.parametrize("each", gpu.parts("cuda")[1:], ids=lambda each: each.name)
def test_the_benchmarks_take_these_arguments(each, monkeypatch):
    """Read by their own parsers, as on a machine with a GPU."""
    monkeypatch.syspath_prepend(str(gpu.ROOT / "benchmarks"))
    script, *arguments = each.command
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    module = __import__(script.removeprefix("benchmarks/").removesuffix(".py"))
    found = module.read_arguments()
    assert found.device == "cuda"
    assert found.dtype == "bfloat16"
    assert str(found.output) == "{output}"
