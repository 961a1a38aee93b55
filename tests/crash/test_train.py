"""``hiddenkey train``, ended at any moment and begun again, ends like an undisturbed run."""

import shutil
import signal
import time

import pytest
import yaml

from crash.children import (
    MOMENTS,
    Events,
    delete,
    end,
    ended_after,
    kill_itself,
    moments,
    run_result,
    said,
    start,
)
from hiddenkey.lab.run import generation
from lab.conftest import write_csv

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module", params=["classes", "texts"] if MOMENTS else ["classes"])
def command(request, tiny_model, tiny_language_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return words(request.param, tiny_model, tiny_language_model, folder)


def words(kind, model, language_model, folder):
    """Arguments without the folder: six steps, three evaluations, a constant learning rate."""
    settings = {
        "max_steps": 6,
        "evaluations": 3,
        "scheduler": "constant",
        "layers": [1],
        "rate": 0.3,
        "rank": 4,
        "max_length": 16,
        "batch_size": 8,
        "learning_rate": 1e-2,
        **{f"{name}_file": str(folder / f"{name}.csv") for name in ("train", "eval")},
    }
    if kind == "texts":
        rows = [f"w{n} w{n + 1},w{n + 2} w{n + 3}" for n in range(24)]
        for name in ("train", "eval"):
            (folder / f"{name}.csv").write_text("\n".join(["prompt,completion", *rows]))
        settings |= {"model": str(language_model), "task": "completion", "max_new_tokens": 4}
        settings |= {"generation_batch_size": 4, "beams": 2}
    else:
        for name in ("train", "eval"):
            write_csv(folder / f"{name}.csv", 32, len(name))
        settings |= {"model": str(model), "task": "file", "text_columns": ["text"]}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(settings))
    return ["train", "--config", path, "--output"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    return undisturbed(command, tmp_path_factory.mktemp("whole") / "run")


def undisturbed(command, folder):
    """The undisturbed run's result, how many events it has and how long it takes."""
    log = folder.with_suffix(".log")
    started = time.monotonic()
    assert end(start([*command, folder], log, events=Events(folder))) == 0, log.read_text()
    seconds = time.monotonic() - started
    return run_result(folder), int(said(log).rpartition("events ")[2]), seconds


def finish(command, folder, log):
    """Begin again until nothing is left to do; a folder that is no run yet is begun anew."""
    assert end(start([*command, folder, "--resume"], log)) == 0, log.read_text()
    said(log)
    assert not list(folder.glob(".*")), "no half-written file stays"
    return run_result(folder)


def test_killed_at_a_file_system_event(command, whole, tmp_path):
    expected, events, _ = whole
    assert events > 20
    chosen = {1 + int(moment * events) for moment in moments(1)}
    chosen |= {events - 1, events} if MOMENTS else {events}  # the last: it has all but its name
    if events <= MOMENTS:
        chosen = range(1, events + 1)
    for number in chosen:
        folder, log = tmp_path / f"at-{number}", tmp_path / f"at-{number}.log"
        hook = Events(folder, number, kill_itself)
        assert end(start([*command, folder], log, events=hook)) == -signal.SIGKILL
        assert finish(command, folder, log) == expected, f"event {number} of {events}"
        shutil.rmtree(folder)


SIGNALS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("how", SIGNALS if MOMENTS else SIGNALS[1:2])
def test_ended_at_a_random_moment(command, whole, tmp_path, how):
    expected, _, seconds = whole
    for number, moment in enumerate(moments(1)):
        folder, log = tmp_path / f"run-{number}", tmp_path / f"run-{number}.log"
        code = ended_after(start([*command, folder], log), moment * seconds, how)
        assert code in (0, -how, 130)
        said(log)
        assert finish(command, folder, log) == expected, f"after {moment * seconds:.2f} s"


def test_a_folder_deleted_midway_is_one_line(command, whole, tmp_path):
    _, events, _ = whole
    for moment in moments(1):
        number = 3 + int(moment * (events - 6))
        folder, log = tmp_path / f"gone-{number}", tmp_path / f"gone-{number}.log"
        hook = Events(folder, number, delete(folder))
        code = end(start([*command, folder], log, events=hook))
        assert (code == 0) == (folder / "result.json").exists() or code == 2
        text = said(log)
        assert code == 0 or "hiddenkey train: error: " in text.splitlines()[-1]
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("largest", [3000, 12_000] if MOMENTS else [12_000])
def test_a_full_disk_is_one_line_and_loses_nothing(command, whole, tmp_path, largest):
    folder, log = tmp_path / "full", tmp_path / "full.log"
    code = end(start([*command, folder], log, largest=largest))
    assert code != 0
    assert "hiddenkey train: error: " in said(log).splitlines()[-1]
    assert finish(command, folder, tmp_path / "again.log") == whole[0]


def test_killed_while_it_generates_it_is_not_trained_further(
    tiny_model, tiny_language_model, tmp_path
):
    """All of a generation lies between the last checkpoint and the result."""
    command = words("texts", tiny_model, tiny_language_model, tmp_path)
    expected, _, _ = undisturbed(command, tmp_path / "whole")
    batches = 24 // 4
    for number in {1 + int(moment * batches) for moment in moments(1)}:
        folder, log = tmp_path / f"run-{number}", tmp_path / f"run-{number}.log"
        process = start([*command, folder], log, prepare=lambda: die_in_batch(number))  # noqa: B023
        assert end(process) == -signal.SIGKILL
        assert (folder / "checkpoints" / "checkpoint-6").is_dir()
        assert finish(command, folder, log) == expected, f"batch {number} of {batches}"


def die_in_batch(number):
    """Let this process die when it is about to complete a batch of prompts."""
    real, left = generation._complete, [number]

    def complete(*given):
        left[0] -= 1
        return real(*given) if left[0] else kill_itself()

    generation._complete = complete
