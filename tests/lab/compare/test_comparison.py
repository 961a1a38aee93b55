"""A whole comparison in one process: what is run, what is not run again, what is collected."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hiddenkey import ConfigError
from hiddenkey.cli import compare
from hiddenkey.cli.running import line
from hiddenkey.errors import DivergedError
from hiddenkey.lab import scores
from hiddenkey.lab.compare import coordinator as coordinators
from hiddenkey.lab.compare import probe, view
from hiddenkey.lab.compare import worker as workers
from hiddenkey.lab.compare.renamed import under_its_name
from hiddenkey.lab.evidence.record import read_records
from hiddenkey.lab.report import tabulate
from hiddenkey.lab.run.step_times import WARM_UP, times_in_turns
from hiddenkey.lab.scores.java import MissingToolError
from hiddenkey.step.temporal import TemporalLoss
from lab.compare.driver import OPEN, begin, finish, outcomes, run_here, worker_for

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that were trained, in order."""
    seen = []
    real = workers.train

    def train(options, **arguments):
        seen.append((options.method, options.rate, options.seed))
        return real(options, **arguments)

    monkeypatch.setattr(workers, "train", train)
    return seen


def folder(plan):
    return Path(plan.output)


def close():
    """End all commands, so that their folder may be moved."""
    while OPEN:
        OPEN.pop().close()


def test_every_combination_is_run_once_and_recorded(plan, trained):
    coordinator = run_here(plan, rates=(0.1, 0.3))
    runs = [("lora", None, 0), ("hiddenkey", 0.1, 0), ("hiddenkey", 0.3, 0)]
    assert trained == [(*run[:2], seed) for seed in (0, 1) for run in runs]
    records = read_records(folder(plan))
    assert len(records) == 6
    assert {r.id: r for r in coordinator.records()} == {r.id: r for r in records}
    for record in records:
        assert (record.status, record.stage, record.budget) == ("finished", "compare", "steps")
        assert record.attempts == 1
        assert record.started <= record.ended
        assert [line["step"] for line in record.metrics] == [2, 4]
        assert record.environment["torch"]
        assert (record.result.train_examples, record.result.eval_examples) == (32, 15)
        assert "output" not in record.options
        assert not (folder(plan) / "runs" / record.id / "checkpoints").exists()
        assert (folder(plan) / "runs" / record.id / "adapter").is_dir()


def test_finished_runs_are_not_repeated_and_a_larger_plan_adds_the_missing_ones(plan, trained):
    plan = replace(plan, seeds=(0,))
    first = outcomes(run_here(plan).records())
    trained.clear()
    assert outcomes(run_here(plan).records()) == first
    assert trained == []
    larger = run_here(plan, seeds=(0, 1), methods=("lora", "dropkey", "hiddenkey"))
    assert sorted(trained) == [
        ("dropkey", None, 0), ("dropkey", None, 1), ("hiddenkey", None, 1), ("lora", None, 1),
    ]  # fmt: skip
    assert first.items() <= outcomes(larger.records()).items()
    trained.clear()
    smaller = run_here(plan, methods=("lora",))
    assert trained == []
    assert len(smaller.records()) == 1
    assert smaller.other_runs() == 5


def test_a_harmed_record_is_written_anew_from_the_study(plan, trained):
    run_here(plan)
    paths = sorted((folder(plan) / "records").glob("*.json"))
    whole = [path.read_text() for path in paths]
    paths[0].unlink()
    paths[1].write_text(whole[1][: len(whole[1]) // 2])
    paths[2].write_text(json.dumps({**json.loads(whole[2]), "attempts": 7}))
    trained.clear()
    run_here(plan)
    assert [path.read_text() for path in paths] == whole
    assert trained == []


def test_records_bring_a_lost_study_back(plan, trained):
    first = outcomes(run_here(plan).records())
    (folder(plan) / "study.db").unlink()
    broken = next((folder(plan) / "records").glob("*.json"))
    broken.write_text("{")
    trained.clear()
    assert outcomes(run_here(plan).records()) == first
    assert len(trained) == 1, "the run whose record was broken; its run folder is still there"


def test_a_renamed_folder_keeps_what_failed_and_what_was_measured(plan, trained, monkeypatch):
    monkeypatch.setattr(probe, "ratio", lambda *_: 2.0)
    plan = replace(plan, equal_time=True, per_method={"lora": {"layers": [7]}})
    first = outcomes(run_here(plan).records())
    close()
    moved = replace(plan, output=str(folder(plan).rename(folder(plan).with_name("moved"))))
    named = under_its_name(moved)
    assert (moved.name, named.name) == ("moved", "compare")
    trained.clear()
    coordinator = begin(named)
    assert coordinator.advance().finished
    assert outcomes(coordinator.records()) == first
    assert trained == []


def test_a_cost_is_kept_where_the_study_is_lost(plan, monkeypatch):
    monkeypatch.setattr(probe, "ratio", lambda *_: 2.0)
    plan = replace(plan, equal_time=True)
    first = outcomes(run_here(plan).records())
    close()
    (folder(plan) / "study.db").unlink()
    (kept,) = (folder(plan) / "costs").iterdir()
    monkeypatch.setattr(probe, "ratio", lambda *_: pytest.fail("it was measured before"))
    assert outcomes(run_here(plan).records()) == first
    close()
    (folder(plan) / "study.db").unlink()
    kept.write_text("{")
    monkeypatch.setattr(probe, "ratio", lambda *_: 2.0)
    assert outcomes(run_here(plan).records()) == first


def test_only_one_comparison_of_a_folder_can_have_lost_its_name(plan, monkeypatch):
    assert under_its_name(plan) == plan, "there is no folder yet"
    store = plan.job_store
    begin(plan)
    begin(replace(plan, study="other"))
    close()
    assert under_its_name(plan) == plan
    moved = replace(plan, output=str(store.folder.rename(store.folder.with_name("moved"))))
    assert under_its_name(moved) == moved, "either might be meant"
    monkeypatch.setenv("HIDDENKEY_STORAGE", "sqlite:///shared.db")
    assert under_its_name(moved) == moved, "a shared database knows it by its folder"


def test_a_failing_run_is_recorded_and_stops_no_other(plan, trained, monkeypatch):
    plan = replace(plan, per_method={"hiddenkey": {"layers": [7]}})
    coordinator = run_here(plan)
    assert len(trained) == 4
    by_method = {record.options["method"]: record for record in coordinator.records()}
    failed = by_method["hiddenkey"]
    assert by_method["lora"].status == "finished"
    assert failed.status == "failed"
    assert failed.result is None
    assert "Traceback" in failed.error
    assert "layers must be below 2" in failed.error
    trained.clear()
    run_here(plan)
    assert trained == [], "a failure is not repeated unless it is asked for"
    again = run_here(plan, retry_failed=True)
    assert trained == [("hiddenkey", None, 0), ("hiddenkey", None, 1)]
    assert {record.attempts for record in again.records()} == {1, 2}


def test_what_failed_can_be_mended_and_run_again(plan, trained, monkeypatch):
    real = workers.train

    def refuse(options, **arguments):
        if options.method == "hiddenkey":
            raise MemoryError("not enough")
        return real(options, **arguments)

    monkeypatch.setattr(workers, "train", refuse)
    records = run_here(plan).records()
    assert [r.error.splitlines()[-1] for r in records if r.result is None] == [
        "MemoryError: not enough"
    ] * 2
    monkeypatch.setattr(workers, "train", real)
    assert {r.status for r in run_here(plan, retry_failed=True).records()} == {"finished"}
    assert {r.status for r in read_records(folder(plan))} == {"finished"}


def test_a_run_that_diverged_is_a_failed_run_with_its_step(plan):
    records = run_here(plan, common={**plan.common, "learning_rate": 4e9}).records()
    assert len(records) == 4
    for record in records:
        assert record.status == "failed"
        assert re.search(r"DivergedError: the training diverged: .* at step \d;", record.reason)
    stored = read_records(folder(plan))
    (failed,) = {row.record.reason for row in tabulate(stored).failures} & {records[0].reason}
    assert "diverged" in failed
    assert any(line["eval_loss"] is None for record in stored for line in record.metrics)


def test_a_record_of_a_diverged_run_that_counted_as_finished_is_failed(plan):
    run_here(plan, methods=("lora",), seeds=(0,))
    (path,) = (folder(plan) / "records").glob("*.json")
    stored = json.loads(path.read_text())
    stored["result"]["eval_loss"]["last"] = None
    path.write_text(json.dumps(stored))
    (record,) = read_records(folder(plan))
    assert (record.status, record.result) == ("failed", None)
    assert record.reason == (
        "the training diverged: the evaluation loss at step 4 is no finite number"
    )


def test_an_interrupted_run_goes_on_at_its_checkpoint(plan, trained, monkeypatch):
    plan = replace(plan, methods=("lora",), seeds=(0,))
    whole = outcomes(run_here(plan, output=plan.output + "-whole").records())
    coordinator = begin(plan)
    coordinator.advance()
    real = workers.LiveView.evaluated

    def stop(self, line):
        real(self, line)
        if line["step"] == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(workers.LiveView, "evaluated", stop)
    with pytest.raises(KeyboardInterrupt):
        worker_for(coordinator).take_one()
    steps = []
    monkeypatch.setattr(
        workers.LiveView, "evaluated", lambda self, line: steps.append(line["step"])
    )
    (record,) = run_here(plan).records()
    assert steps == [4], "step 2 was not trained again"
    assert record.attempts == 2
    assert outcomes([record]) == whole


def test_a_run_folder_without_settings_is_started_anew(plan):
    plan = replace(plan, methods=("lora",), seeds=(0,))
    coordinator = begin(plan)
    job = next(iter(coordinator._outline.jobs({})[plan.name]))
    stump = folder(plan) / "runs" / job.key
    stump.mkdir(parents=True)
    (stump / "data.json").write_text("{}")
    (record,) = finish(coordinator).records()
    assert record.status == "finished"


def test_equal_time_cuts_the_steps_by_the_measured_cost(plan, trained, monkeypatch):
    measured = []

    def ratio(ours, baseline):
        measured.append((ours[0].method, baseline[0].method))
        return 1.9

    monkeypatch.setattr(workers.probe, "ratio", ratio)
    plan = replace(plan, equal_time=True, rates=(0.1,), seeds=(0,))
    records = run_here(plan).records()
    found = {(r.options["method"], r.options["rate"], r.budget): r.result.steps for r in records}
    assert found == {
        ("lora", None, "steps"): 4,
        ("hiddenkey", 0.1, "steps"): 4,
        ("hiddenkey", 0.1, "time"): 2,
    }
    assert measured == [("hiddenkey", "lora")]
    monkeypatch.setattr(workers.probe, "ratio", None)
    trained.clear()
    assert len(run_here(plan).records()) == 3
    assert trained == []
    run_here(plan, rates=(0.1, 0.3))
    assert trained == [("hiddenkey", 0.3, 0)] * 2, "another rate costs the same"


def test_costs_are_measured(plan):
    (lora, hiddenkey) = plan.settings()
    coordinator = begin(plan)
    data = worker_for(coordinator)._data
    pairs = [(options, data.prepare(options)) for options in (hiddenkey, lora)]
    assert 0.8 < workers.probe.ratio(*pairs) < 20
    cost = workers.probe.measure(*pairs[0])
    assert cost.step > 0
    assert cost.text == 0, "nothing is generated"
    assert cost.of(hiddenkey, 100, 1000) > 100 * cost.step


def test_steps_in_bfloat16_take_turns_too(plan):
    plan = replace(plan, common={**plan.common, "precision": "bfloat16"})
    (lora, hiddenkey) = plan.settings()
    data = worker_for(begin(plan))._data
    pairs = [(options, data.prepare(options)) for options in (hiddenkey, lora)]
    assert 0 < workers.probe.ratio(*pairs) < math.inf


def test_each_timed_step_has_the_loss_that_remembers(plan, monkeypatch):
    seen, real = [], TemporalLoss.after

    def after(self, *given):
        found = real(self, *given)
        seen.append(found[1].item())
        return found

    monkeypatch.setattr(TemporalLoss, "after", after)
    (lora, temporal) = replace(plan, methods=("lora", "temporal")).settings()
    data = worker_for(begin(plan))._data
    times_in_turns(*[(options, data.prepare(options)) for options in (temporal, lora)], rounds=4)
    assert seen[:WARM_UP] == [0] * WARM_UP
    assert min(seen[WARM_UP:]) > 0
    assert len(seen) == WARM_UP + 4


def test_search_gives_each_method_as_many_trials_and_then_compares_the_best(plan, trained):
    search = {
        "trials": 2,
        "seeds": [100, 101],
        "validation": 0.25,
        "space": {"learning_rate": [1e-3, 1e-1], "rate": [0.0, 0.4]},
    }
    plan = replace(plan, search=search, seeds=(0,))
    coordinator = run_here(plan)
    records = read_records(folder(plan))
    tried = [record for record in records if record.stage == "search"]
    for method in plan.methods:
        of_method = [record for record in tried if record.options["method"] == method]
        settings = {(r.options["learning_rate"], r.options["rate"]) for r in of_method}
        assert len(of_method) == 4
        assert len(settings) == 2
        assert all(record.options["holdout"] == 0.25 for record in of_method)
        mean = {
            setting: sum(
                record.result.metrics["accuracy"].best
                for record in of_method
                if (record.options["learning_rate"], record.options["rate"]) == setting
            )
            for setting in settings
        }
        compared = [r for r in coordinator.records() if r.options["method"] == method]
        assert {r.options["seed"] for r in compared} == {0}
        for record in compared:
            chosen = (record.options["learning_rate"], record.options["rate"])
            assert mean[chosen] == max(mean.values())
            assert record.options["holdout"] is None
            assert record.result.data_fingerprint != of_method[0].result.data_fingerprint
    firsts = {
        method: [r.options["learning_rate"] for r in tried if r.options["method"] == method]
        for method in plan.methods
    }
    assert set(firsts["lora"]) & set(firsts["hiddenkey"]), "the random draws are shared"
    assert all(r.options["rate"] is None for r in tried if r.options["method"] == "lora")
    trained.clear()
    run_here(plan)
    assert trained == []


def test_a_method_whose_search_fails_is_told_and_stops_no_other(plan):
    search = {"trials": 2, "space": {"learning_rate": [1e-3, 1e-1]}}
    plan = replace(plan, search=search, per_method={"hiddenkey": {"layers": [7]}})
    coordinator = run_here(plan)
    assert {record.options["method"] for record in coordinator.records()} == {"lora"}
    problems = coordinator.problems()
    assert "hiddenkey on file: no trial of its search succeeded" in problems
    assert any("2 of 2 jobs" in problem and "layers must be" in problem for problem in problems)


def test_a_trial_that_diverges_is_never_chosen_and_fails_nothing(plan, monkeypatch, capsys):
    real = workers.train

    def train(options, **arguments):
        if options.learning_rate > 2e-2:
            raise DivergedError(
                "the training diverged: train_loss is nan at step 2; take a smaller"
            )
        return real(options, **arguments)

    monkeypatch.setattr(workers, "train", train)
    space = {"learning_rate": [1e-3, 1e-1]}
    search = {"trials": 4, "seeds": [100, 101], "space": space}
    plan = replace(plan, search=search, methods=("lora",), seeds=(0,))
    run_here(plan)
    records = read_records(folder(plan))
    tried = {r.options["learning_rate"] for r in records if r.stage == "search"}
    lost = [record for record in records if record.counts_as_worst]
    assert {record.options["learning_rate"] for record in lost} == {r for r in tried if r > 2e-2}
    assert 1 <= len(lost) <= 3, "one seed of a trial that diverged is enough"
    (compared,) = (record for record in records if record.stage == "compare")
    assert compared.options["learning_rate"] < 2e-2
    assert line(lost[0], ()).startswith("diverged, counts as worst: file, lora, seed 100, search")
    found = tabulate(records)
    assert found.failures == ()
    assert sum(row.best is None for row in found.search) == len(lost)
    assert any(f"of a search diverged: lora on file ({len(lost)})" in n for n in found.notes)
    monkeypatch.setattr(workers, "train", None)
    assert compare.run(replace(plan, retry_failed=True, timed_steps=0)) == 0
    assert "failed" not in capsys.readouterr().out


def test_a_search_of_which_all_diverged_is_one_error(plan, capsys):
    search = {"trials": 2, "space": {"learning_rate": [2e9, 4e9]}}
    plan = replace(plan, search=search, methods=("lora",), seeds=(0,))
    run_here(plan)
    assert compare.run(plan) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "lora on file: no trial of its search succeeded, 2 of 2 diverged or have no" in said
    assert "lower search.space.learning_rate, and name another output or give --accept" in said
    assert "--retry-failed" not in said


def test_a_full_folder_stops_the_command_and_fails_no_run(plan, monkeypatch):
    coordinator = begin(plan)
    coordinator.advance()
    real, fault = workers.train, "output must be a folder with free space"

    def full(*_, **__):
        monkeypatch.setattr(coordinators.WorkFolder, "fault", lambda self: fault)
        raise RuntimeError("file write failed")

    monkeypatch.setattr(workers, "train", full)
    with pytest.raises(ConfigError, match=fault):
        worker_for(coordinator).take_one()
    monkeypatch.setattr(workers, "train", real)
    monkeypatch.setattr(coordinators.WorkFolder, "fault", lambda self: None)
    assert {record.status for record in run_here(plan).records()} == {"finished"}


def test_changed_data_is_another_run(plan, tiny_options, trained):
    plan = replace(plan, seeds=(0,))
    first = {record.id for record in run_here(plan).records()}
    path = Path(tiny_options.eval_file)
    path.write_text(path.read_text().replace("bee", "cat", 1))
    second = {record.id for record in run_here(plan).records()}
    assert not first & second
    assert len(trained) == 4


def test_tasks_that_generate_are_compared_too(plan, tiny_language_model, tmp_path, monkeypatch):
    def without_java():
        raise MissingToolError("starting Java takes longer than everything else here")

    monkeypatch.setattr(scores, "find_tools", without_java)
    files = {}
    for name, count in (("train_file", 8), ("eval_file", 3)):
        path = tmp_path / f"{name}.jsonl"
        rows = [{"prompt": f"w{i} is", "completion": f"w{i} cat"} for i in range(count)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        files[name] = str(path)
    common = {**plan.common, **files, "beams": 1, "max_new_tokens": 3}
    del common["text_columns"]
    plan = replace(
        plan, tasks=("completion",), models=(str(tiny_language_model),), seeds=(0,), common=common
    )
    records = run_here(plan).records()
    assert [record.status for record in records] == ["finished"] * 2
    for record in records:
        assert record.metrics[-1][f"eval_{record.result.main_metric}"] is not None
    data, (lora, _) = worker_for(begin(plan))._data, plan.settings()
    cost = workers.probe.measure(lora, data.prepare(lora))
    assert cost.text > 0
    assert cost.of(lora, 10, 1000) > 1000 * cost.text


def test_trials_have_a_name_and_their_method_as_a_parameter(plan):
    coordinator = run_here(plan, seeds=(3,), rates=(0.2,))
    trials = coordinator.studies[plan.name].get_trials()
    assert [trial.user_attrs["name"] for trial in trials] == [
        "file, lora, seed 3",
        "file, hiddenkey rate 0.2, seed 3",
    ]
    assert [trial.params["method"] for trial in trials] == ["lora", "hiddenkey"]
    assert trials[1].params["rate"] == 0.2


def test_a_study_of_a_version_with_other_methods_goes_on(plan, trained, monkeypatch):
    monkeypatch.setattr(view, "methods", lambda: {"lora": None, "other": None})
    run_here(plan, seeds=(0,), methods=("lora",))
    monkeypatch.undo()
    coordinator = run_here(plan, seeds=(0,))
    assert [record.status for record in coordinator.records()] == ["finished", "finished"]
    trials = coordinator.studies[plan.name].get_trials()
    assert [trial.params.get("method") for trial in trials] == ["lora", None]


def test_a_study_from_before_names_goes_on(plan, trained, monkeypatch):
    real = coordinators.jobs.enqueue
    earlier = lambda study, job, before: real(  # noqa: E731
        study,
        replace(job, name="", params={n: v for n, v in job.params.items() if n != "method"}),
        before,
    )
    monkeypatch.setattr(coordinators.jobs, "enqueue", earlier)
    coordinator = begin(replace(plan, seeds=(0,)))
    worker = worker_for(coordinator)
    coordinator.advance()
    worker.take_one()  # one is finished, the other one waits
    monkeypatch.setattr(coordinators.jobs, "enqueue", real)
    again = run_here(plan, seeds=(0, 1))
    assert len(again.records()) == 4
    found = [trial.params.get("method") for trial in again.studies[plan.name].get_trials()]
    assert found == [None, None, "lora", "hiddenkey"]
