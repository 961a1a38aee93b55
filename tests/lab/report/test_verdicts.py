import pytest

from hiddenkey.lab.report import tabulate
from lab.report.synthetic import record, with_values

BASE = [0.80, 0.82, 0.78, 0.81, 0.79, 0.83, 0.77, 0.80]


def verdict_of(*shifts, seeds=8, methods=("dropkey", "hiddenkey", "hiddencut"), margin=None):
    """Return the verdict on methods that differ from the baseline by these values."""
    runs = with_values([record(seed=s) for s in range(seeds)], BASE[:seeds])
    for method, shift in zip(methods, shifts, strict=False):
        own = [record(method=method, seed=s) for s in range(seeds)]
        values = [BASE[s] + (shift[s % len(shift)]) for s in range(seeds)]
        runs += with_values(own, values)
    (table,) = tabulate(runs, margin=margin).scopes[0].tasks
    return table.verdict


UP, DOWN = (0.05, 0.04), (-0.05, -0.04)
NOTHING, OPEN = (0.004, -0.004, 0.002, -0.002), (0.02, -0.02, 0.01, -0.01)


@pytest.mark.parametrize(
    ("shifts", "answer", "headline"),
    [
        ((UP,), "better", "Yes: dropkey is better than lora."),
        ((UP, UP), "better", "Yes: dropkey and hiddenkey are better than lora."),
        ((DOWN,), "worse", "No: dropkey is worse than lora, and none is better."),
        (
            (UP, DOWN),
            "mixed",
            "It depends on the configuration: dropkey is better than lora, hiddenkey is worse.",
        ),
        ((NOTHING,), "no clear difference", "No clear difference between dropkey and lora."),
        (
            (NOTHING, NOTHING),
            "no clear difference",
            "No clear difference between lora and any of the 2 configurations.",
        ),
        ((UP, NOTHING), "better", "Yes: dropkey is better than lora."),
        (
            (OPEN, NOTHING),
            "inconclusive",
            "Inconclusive (8 seeds): no difference from lora is shown.",
        ),
    ],
)
def test_headline_says_yes_no_or_that_it_depends(shifts, answer, headline):
    verdict = verdict_of(*shifts)
    assert (verdict.answer, verdict.headline) == (answer, headline)


def test_basis_names_metric_pairs_test_and_correction():
    first = verdict_of(UP, DOWN).sentences[0]
    for part in ("accuracy after the last step", "8 seeds", "paired with lora", "Student's t"):
        assert part in first
    assert "Holm's correction over 2 comparisons" in first


def test_better_shows_difference_interval_p_and_wins():
    sentence = verdict_of(UP).sentences[1]
    assert sentence.startswith("dropkey: better, +0.045 [+0.0")
    assert "p < 0.001 after Holm's correction, 8 wins, 0 ties and 0 losses by seed" in sentence


def test_no_difference_is_not_called_equality():
    sentences = " ".join(verdict_of(NOTHING).sentences)
    assert "No difference as large as 0.01: the intervals reach from −0.0" in sentences


def test_a_margin_of_ones_own_decides_what_hardly_matters():
    assert verdict_of(NOTHING, margin=0.02).answer == "no clear difference"
    assert "as large as 0.02" in " ".join(verdict_of(NOTHING, margin=0.02).sentences)
    assert verdict_of(NOTHING, margin=0.002).answer == "inconclusive"
    assert verdict_of(UP, margin=0.002).answer == "better"


def test_the_margin_is_the_main_metrics_alone():
    runs = [record(method=method, seed=s) for method in ("lora", "dropkey") for s in range(8)]
    cells = tabulate(runs, margin=0.5).scopes[0].tasks[0].cells
    found = {cell.measure.main: cell.comparison.margin for cell in cells if cell.comparison}
    assert found == {True: 0.5, False: pytest.approx(0.01, rel=0.5)}


def test_three_seeds_can_reach_a_verdict():
    assert verdict_of(UP, seeds=3).answer == "better"


@pytest.mark.parametrize(
    ("shift", "seeds", "reason"),
    [(OPEN, 3, "Underpowered with 3 seeds"), (UP, 2, "3 pairs are the fewest")],
)
def test_too_few_seeds_are_inconclusive_with_the_reason_and_without_any_star(shift, seeds, reason):
    verdict = verdict_of(shift, seeds=seeds)
    assert verdict.answer == "inconclusive"
    text = " ".join(verdict.sentences)
    assert reason in text
    assert "*" not in text


def test_best_checkpoint_is_called_a_choice():
    text = " ".join(verdict_of(UP).sentences)
    assert "At each run's best evaluation, which is chosen on the evaluation examples" in text


def test_methods_are_counted_where_their_verdicts_differ():
    text = " ".join(verdict_of(UP, NOTHING).sentences)
    assert "By method — dropkey: better; hiddenkey: no clear difference." in text
    assert "By method" not in " ".join(verdict_of(UP, UP).sentences)


def test_equal_time_is_said():
    time = [record(method="hiddenkey", seed=s, budget="time", max_steps=120) for s in range(6)]
    scopes = tabulate([*(record(seed=s) for s in range(6)), *time]).scopes
    assert (
        "all given the wall time that the baseline took"
        in (scopes[1].tasks[0].verdict.sentences[0])
    )


def test_baseline_alone():
    (table,) = tabulate([record(seed=s) for s in range(3)]).scopes[0].tasks
    assert table.verdict.sentences == ("Only the baseline lora has runs.",)
