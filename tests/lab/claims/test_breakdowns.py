import pytest

from hiddenkey.lab.claims.breakdowns import TRAINING, broken_runs, without_broken
from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.page import markdown, to_plain
from lab.claims.studies import contrast
from lab.claims.synthetic import claims, evidence, measure

TASKS = ("first", "second")


def broken(*, first=(3,), second=(), kind="ours"):
    """Two configurations on two tasks; the runs with these seeds learnt nothing, and lose 30."""
    values = {}
    for task, seeds in (("first", first), ("second", second)):
        for name in ("ours", "lora"):
            lost = {seed: 30.0 if name == kind and seed in seeds else 0.0 for seed in range(6)}
            gain = {"ours": {"first": 2.0, "second": 4.0}[task], "lora": 0.0}[name]
            values[task, name, "metric"] = {s: 70 + gain + s - lost[s] for s in lost}
            values[task, name, TRAINING] = {s: 99 - 2 * lost[s] for s in lost}
    return values


def test_runs_are_found_by_what_they_learnt():
    (run,) = broken_runs(broken())
    assert (run.task, run.configuration, run.breakdown.seed) == ("first", "ours", 3)
    assert (run.breakdown.value, run.breakdown.median) == (39, 99)


def test_a_run_that_learnt_and_generalises_badly_did_not_break_down():
    values = broken(first=())
    values["first", "ours", "metric"][3] -= 30
    assert broken_runs(values) == ()


@pytest.mark.parametrize("kind", ["ours", "lora"])
def test_an_effect_without_their_pairs(kind):
    values = broken(first=(3,), second=(0, 1), kind=kind)
    sign = -1 if kind == "ours" else 1
    whole = effect(contrast(), values, TASKS)
    assert whole.mean == pytest.approx(3 + sign * (30 / 6 + 60 / 6) / 2)
    rest = without_broken(whole, values, broken_runs(values))
    assert (rest.left_out, rest.mean) == (3, pytest.approx(3))
    alone = without_broken(effect(contrast(), values, TASKS, "second"), values, broken_runs(values))
    assert (alone.left_out, alone.mean) == (2, pytest.approx(4))


def test_effects_of_other_configurations_or_tasks_are_left_alone():
    values = broken()
    assert (
        without_broken(effect(contrast(), values, TASKS, "second"), values, broken_runs(values))
        is None
    )
    for task in TASKS:
        values[task, "other", "metric"] = values[task, "lora", "metric"]
    other = effect(contrast(configuration="other"), values, TASKS)
    assert without_broken(other, values, broken_runs(values)) is None


def page(broken_seeds):
    values = measure()
    values["headlines", "dropattention-0.3", TRAINING] = {
        seed: 12.5 if seed in broken_seeds else 97.0 for seed in range(6)
    }
    return evidence(values=values, chosen=claims())


def test_the_page_names_them_and_says_what_is_left():
    found = page({2})
    text = markdown(found, [])
    assert "1 run broke down" in " ".join(text.split())
    assert "| headlines | dropattention-0.3 | 2 | 12.50 | 97.00 |" in text
    rows = text.partition("### Effects without them")[2].partition("###")[0].splitlines()
    about = [row for row in rows if "dropattention" in row]
    assert len(about) >= 2  # the mean over tasks and the task
    assert all(row.endswith("| 1 |") for row in about)
    values = {(each["task"], each["configuration"], each["measure"]) for each in
              to_plain(found)["values"]}  # fmt: skip
    assert ("headlines", "dropattention-0.3", TRAINING) in values


def test_a_page_without_them_says_nothing():
    text = markdown(page(()), [])
    assert "broke down" not in text
    assert "pairs left out" not in text
