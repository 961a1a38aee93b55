import pytest

from hiddenkey.lab.claims.evidence import judge
from hiddenkey.lab.claims.findings import expected_power
from hiddenkey.lab.evidence.planning import Design
from lab.claims.studies import CONFIGURATIONS, TASKS, claim, contrast, of_effects, scale, six

HELD = [2.0, 2.1, 1.9, 2.05, 1.95, 2.0]
LOST = [-effect for effect in HELD]
NOISE = [-9.0, 10.0, 2.0, -8.0, 9.0, -1.0]


def on_all(effects, *, configuration="ours", **settings):
    return {
        key: seeds
        for task in TASKS
        for key, seeds in of_effects(
            effects, task=task, configuration=configuration, **settings
        ).items()
    }


@pytest.mark.parametrize(
    ("effects", "verdict"), [(HELD, "holds"), (LOST, "does not hold"), (NOISE, "cannot tell")]
)
def test_one_question_over_all_tasks(effects, verdict):
    found = judge(claim(contrast()), scale(), on_all(effects))
    assert (found.verdict, found.needed, len(found.questions)) == (verdict, 1, 1)
    assert found.questions[0].tasks == TASKS
    assert [shown.task for shown in found.by_task] == list(TASKS)
    assert (found.p_holds, found.p_fails) == (
        found.questions[0].p_holds,
        found.questions[0].p_fails,
    )
    assert found.power == expected_power(claim(contrast()), scale())
    assert (found.left_out, found.missing) == ({}, 0)


def test_each_task_is_a_question():
    values = on_all(HELD) | of_effects(LOST, task="second")
    for need, verdict in ((1.0, "does not hold"), (0.6, "holds")):
        found = judge(claim(contrast(), scope="each task", need=need), scale(), values)
        assert found.verdict == verdict
        assert [question.task for question in found.questions] == list(TASKS)
        assert found.questions == found.by_task
    assert judge(claim(contrast(), need=1.0), scale(), values).questions[0].mean == pytest.approx(
        sum(HELD) / 6 / 3
    )


@pytest.mark.parametrize(
    ("held", "lost", "verdict"),
    [
        (6, 0, "holds"),
        (5, 1, "holds"),
        (5, 0, "holds"),
        (4, 2, "does not hold"),
        (0, 2, "does not hold"),
        (4, 1, "cannot tell"),
        (0, 0, "cannot tell"),
    ],
)
def test_nearly_all_of_six(held, lost, verdict):
    effects = [HELD] * held + [LOST] * lost + [NOISE] * (6 - held - lost)
    values = {}
    for configuration, by_seed in zip(CONFIGURATIONS, effects, strict=True):
        values |= on_all(by_seed, configuration=configuration)
    found = judge(six(), scale(), values)
    assert (found.needed, found.verdict) == (5, verdict)


def test_a_task_that_lora_does_not_learn_does_not_count():
    values = on_all(HELD) | of_effects(LOST, task="third", base=10.0)
    found = judge(claim(contrast()), scale(floor=20.0), values)
    assert found.verdict == "holds"
    assert found.questions[0].tasks == ("first", "second")
    assert set(found.left_out) == {"third"}
    # 10 to 15 points over six seeds
    assert "12.5 points in the mean of 6 seeds, not more than 20" in found.left_out["third"]
    assert "third does not count: " + found.left_out["third"] + "." in found.sentences
    assert [shown.task for shown in found.by_task] == list(TASKS)
    each = judge(claim(contrast(), scope="each task"), scale(floor=20.0), values)
    assert [question.task for question in each.questions] == ["first", "second"]


def test_a_task_at_its_floor_does_not_count():
    values = of_effects([2.0] * 3, base=19.0)  # 19, 20, 21
    left_out = judge(claim(contrast(), tasks=("first",)), scale(floor=20.0), values).left_out
    assert set(left_out) == {"first"}
    assert not judge(claim(contrast(), tasks=("first",)), scale(floor=19.9), values).left_out


@pytest.mark.parametrize("scope", ["pooled", "each task"])
def test_without_runs_nothing_is_told(scope):
    found = judge(claim(contrast(), scope=scope), scale(), {}, missing=36)
    assert (found.verdict, found.p_holds, found.p_fails) == ("cannot tell", 1.0, 1.0)
    assert set(found.left_out) == set(TASKS)
    assert found.sentences[-1] == "Provisional: 36 runs of the plan are missing."


def test_a_scale_that_a_claim_has_no_tasks_for():
    found = judge(claim(contrast(), tasks=(), scope="each task"), scale(), on_all(HELD))
    assert (found.questions, found.needed, found.verdict) == ((), 0, "cannot tell")
    assert found.sentences == ("No task counts yet, so nothing is known.",)


def test_costs_count_on_every_task():
    cost = contrast("between", measure="step time", low=1.3, high=1.7)
    ratios = {
        (task, "ours", "step time"): dict(enumerate([1.45, 1.47, 1.49, 1.51, 1.53, 1.55]))
        for task in TASKS
    }
    found = judge(claim(cost), scale(), ratios)
    assert (found.verdict, found.left_out, found.power) == ("holds", {}, ())
    assert "within the expected range" in found.sentences[0]
    # beside another question, whose tasks do not count
    low = on_all(HELD, base=0.0)
    found = judge(claim(cost, contrast()), scale(), ratios | low)
    assert [question.tasks for question in found.questions] == [TASKS, ()]
    assert found.verdict == "cannot tell"
    assert found.sentences[2] == (
        "ours − LoRA: no seed has all the values that it takes, so nothing is known."
    )


@pytest.mark.parametrize(
    ("expect", "centre", "spread", "reason"),
    [
        ("better", 3.0, 0.1, "holds; above 0."),
        ("better", 0.5, 0.1, "holds; above 0, but by less than 1 point: real, but negligible."),
        ("better", 0.0, 0.1, "does not hold; a gain of 1 point is excluded."),
        ("better", -3.0, 0.1, "does not hold; below 0."),
        (
            "better",
            0.5,
            5.0,
            "cannot tell: inconclusive, neither 0 nor a gain of 1 point is excluded.",
        ),
        ("no better", 3.0, 0.1, "does not hold; above 0."),
        ("no better", 0.5, 0.1, "holds; above 0, but by less than 1 point: real, but negligible."),
        ("no better", 0.0, 0.1, "holds; a gain of 1 point is excluded."),
        ("equal", 0.0, 0.1, "holds; less than 1 point from 0."),
        ("equal", -0.5, 0.1, "holds; not 0, but off by less than 1 point: real, but negligible."),
        ("equal", 3.0, 0.1, "does not hold; not 0."),
        (
            "equal",
            0.0,
            5.0,
            "cannot tell: inconclusive, neither 0 nor a difference of 1 point is excluded.",
        ),
        ("between", 3.0, 0.1, "does not hold; outside of the expected range."),
        (
            "between",
            1.0,
            5.0,
            "cannot tell: inconclusive, neither a value within the expected range nor one outside",
        ),
        (
            "better",
            3.0,
            0.0,
            "cannot tell: inconclusive, since so few equal values show nothing.",
        ),
    ],
)
def test_sentences_say_what_follows(expect, centre, spread, reason):
    effects = [centre + spread * step for step in (-1.0, -0.5, 0.0, 0.5, 1.0)]
    asked = contrast(expect, low=0.0, high=2.0)
    (sentence,) = judge(claim(asked, tasks=("first",)), scale(), of_effects(effects)).sentences
    assert sentence.startswith("ours − LoRA: ")
    assert "(first; 5 seeds): " in sentence
    assert reason in sentence


def test_sentences_have_the_numbers():
    values = on_all([1.0, 2.0, 3.0])
    (sentence,) = judge(claim(contrast()), scale(), values).sentences
    # 2 -+ 4.303 * sqrt((1 + 1 / 12) / 3); tasks of equal means are as equal seeds
    assert sentence.startswith(
        "ours − LoRA: +2.00 points [−0.59, +4.59] (mean of first, second and third; 3 seeds; over"
        " tasks as well [−3.37, +7.37]): cannot tell: inconclusive, neither 0 nor a gain of 1 point"
        " is excluded."
    )
    planned = Design(3, 1.0)
    shown, needed = f"{planned.detectable():.2g} points", f"{planned.pairs_needed(1.0)}."
    assert sentence.endswith(
        f" With this scatter 3 seeds have an 80 % chance to show {shown}; 1 point takes {needed}"
    )
    few = judge(claim(contrast(), tasks=("first",)), scale(), of_effects([5.0, 6.0]), missing=1)
    assert few.sentences[0].endswith("cannot tell: inconclusive, since fewer than 3 show nothing.")
    assert few.sentences[1] == "Provisional: 1 run of the plan is missing."
    values = {}
    for name in CONFIGURATIONS:
        values |= on_all(HELD, configuration=name)
    tally = judge(six(), scale(), values)
    assert tally.sentences[0] == (
        "5 of 6 questions must hold; shown to hold: 6, shown not to: 0, open: 0. Together:"
        " holds (p < 0.001 for the claim, p = 1.000 against it; 0.025 decides)."
    )
