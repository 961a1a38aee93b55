"""What is said at the end of a choice, and what is handed over."""

import dataclasses

from hiddenkey.lab.evidence.inference import Estimate
from hiddenkey.lab.evidence.overfitting import Overfitting
from hiddenkey.lab.plans.command import CommandOptions, CommandRun
from hiddenkey.lab.run.result import Summary
from hiddenkey.lab.tune.conclusion import (
    conclude_plain,
    folder_of,
    hand_over,
    judged_by_loss,
    looked,
)
from lab.report.synthetic import record


def with_loss(run, best, last):
    loss = Summary(best=best, best_step=1, last=last)
    return dataclasses.replace(run, result=dataclasses.replace(run.result, eval_loss=loss))


def test_a_loss_that_rose_with_the_chosen_settings_is_told():
    risen, flat = (with_loss(record(seed=0), best, 0.9) for best in (0.5, 0.9))
    said = conclude_plain([risen], ["learning_rate"]).words
    assert said[1] == "Chosen for lora: learning rate 0.001."
    assert "the loss ended +0.400 above its lowest, in one run; --always" in said[-1]
    assert len(conclude_plain([flat], ["learning_rate"]).words) == len(said) - 1
    assert conclude_plain([record(error="Error: no")], []) is None


def test_what_a_first_look_found_is_said_with_its_interval():
    rises = Estimate.of([0.10, 0.12, 0.14], resolution=0)
    said = looked(Overfitting(rises, 20, 50), "lora", always=False)
    assert (
        "lora overfits: its evaluation loss rises by +0.120 [+0.070, +0.170] from step 20" in said
    )
    noise = Overfitting(Estimate.of([0.1, -0.1, 0.0], resolution=0), 20, 50)
    assert "not shown to overfit" in looked(noise, "lora", always=False)
    assert "since you gave --always" in looked(noise, "lora", always=True)
    assert "is not known" in looked(None, "lora", always=False)


def test_the_loss_becomes_the_main_metric_where_there_is_one():
    runs = [with_loss(record(seed=0), 0.5, 0.9), with_loss(record(seed=1), None, None)]
    first, second = judged_by_loss(runs)
    assert first.result.main_metric == "loss"
    assert first.result.metrics["loss"].last == 0.9
    assert set(runs[0].result.metrics) < set(first.result.metrics)
    assert second == runs[1]


def test_a_commands_folder_is_that_of_its_training():
    options = CommandOptions("x {seed} {output} {lr}", "t", "lora", "m", arguments={"lr": 0.1})
    run = CommandRun(options, "files")
    base = record()
    result = dataclasses.replace(base.result, data_fingerprint="files")
    left = dataclasses.replace(base, id=run.id, options=options.recorded(), result=result)
    assert folder_of(left) == run.training != run.id
    assert folder_of(base) == base.id


def test_an_adapter_replaces_the_one_before_as_a_whole(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "adapter").mkdir(parents=True)
        (tmp_path / name / "adapter" / f"{name}.txt").write_text(name)
    for name in ("old", "new"):
        assert hand_over(tmp_path / name, tmp_path / "tune").is_dir()
    assert [path.name for path in (tmp_path / "tune" / "adapter").iterdir()] == ["new.txt"]
    assert hand_over(tmp_path / "none", tmp_path / "tune") is None
