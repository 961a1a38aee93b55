"""What a plan's seeds can show, from assumed and from measured scatter."""

from dataclasses import replace

import pytest
from scipy import stats

from hiddenkey.cli.arguments import parse
from hiddenkey.lab.claims import reading
from hiddenkey.lab.compare.prospects import ASSUMED, prospects
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.plans import recipes
from hiddenkey.lab.plans.plan import Plan
from lab.report.synthetic import study, with_values

PLAN = Plan(tasks=("headlines",), methods=("lora", "hiddenkey"), rates=(0.05, 0.1))


def test_the_default_plan_can_reach_a_verdict():
    (found,) = prospects(Plan(), [])
    assert (found.task, found.metric, found.pairs) == ("headlines", "accuracy", 5)
    assert (found.comparisons, found.runs) == (1, 2)
    assert found.reaches_verdict
    assert found.scatter.deviation == ASSUMED
    assert "assumed" in found.scatter.source
    assert 0 < found.detectable < 0.03


def test_few_evaluation_examples_are_assumed_to_scatter_more():
    (few,) = prospects(PLAN, [], examples=lambda options: 125)
    (many,) = prospects(PLAN, [], examples=lambda options: 5000)
    assert (few.scatter.deviation, many.scatter.deviation) == (2 * ASSUMED, ASSUMED)
    assert few.scatter.source.endswith("for 125 evaluation examples in place of 500")
    assert few.detectable > 1.9 * many.detectable


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_reach_no_verdict(seeds):
    (found,) = prospects(replace(PLAN, seeds=tuple(range(seeds))), [])
    assert not found.reaches_verdict
    assert found.detectable == float("inf")
    assert found.needed > 3


def test_a_smaller_margin_needs_more_seeds():
    (usual,) = prospects(PLAN, [])
    (fine,) = prospects(replace(PLAN, margin=0.005), [])
    assert (usual.scatter.margin, fine.scatter.margin) == (0.01, 0.005)
    assert fine.needed > 3 * usual.needed
    assert fine.detectable == usual.detectable


def test_a_plan_of_the_baseline_alone_compares_nothing():
    (found,) = prospects(Plan(methods=("lora",)), [])
    assert not found.reaches_verdict
    assert found.needed is None


def test_a_larger_family_needs_more_seeds():
    one, two = (prospects(replace(PLAN, rates=rates), [])[0] for rates in ((0.1,), (0.05, 0.1)))
    assert (one.comparisons, two.comparisons) == (1, 2)
    assert one.detectable < two.detectable
    assert one.needed < two.needed


def test_the_seeds_needed_are_the_fewest_with_a_chance_of_80_percent():
    (found,) = prospects(Plan(), [])

    def chance(pairs):
        shift = found.scatter.margin / ASSUMED * pairs**0.5
        return stats.nct.sf(stats.t.ppf(0.975, pairs - 1), pairs - 1, shift)

    assert chance(found.needed) >= 0.8 > chance(found.needed - 1)


def test_scatter_is_measured_where_runs_are_finished():
    runs = study(rates=(0.1,), seeds=range(4))
    plain, ours = [0.70, 0.80, 0.75, 0.60], [0.73, 0.81, 0.77, 0.66]
    (found,) = prospects(replace(PLAN, rates=(0.1,)), with_values(runs, [*plain, *ours]))
    assert found.scatter.deviation == pytest.approx(0.02160247)
    assert "measured on 4 finished pairs" in found.scatter.source
    (own,) = prospects(replace(PLAN, margin=0.5), with_values(runs, [*plain, *ours]))
    assert own.scatter == replace(found.scatter, margin=0.5)
    (few,) = prospects(PLAN, with_values(runs, [*plain, *ours])[:6])
    assert few.scatter.deviation == ASSUMED, "two pairs measure nothing"


def test_a_generated_texts_metric_has_no_usual_scatter():
    (found,) = prospects(Plan(tasks=("webnlg",), data="folder"), [])
    assert found.reaches_verdict
    assert (found.scatter, found.detectable, found.needed) == (None, None, None)


def test_the_cost_of_the_seeds_needed_follows_from_that_of_one():
    (found,) = prospects(PLAN, [], lambda options: 10.0 if options.method == "lora" else 15.0)
    assert found.seed_seconds == 40
    assert found.needed_seconds == 40 * found.needed
    (timed,) = prospects(replace(PLAN, equal_time=True), [])
    assert (timed.runs, timed.needed_seconds) == (5, None)


@pytest.mark.parametrize("name", [name for name in recipes.recipes() if name.startswith("compare")])
def test_every_recipe_can_reach_a_verdict_on_every_task(name):
    plan = parse(Plan, "compare", ["--config", name])
    for found in prospects(plan, []):
        assert found.reaches_verdict
        assert found.detectable < 0.04


@pytest.mark.parametrize("scale", ["tiny", "small", "medium", "paper"])
def test_every_scale_of_the_claims_can_reach_a_verdict(scale):
    assert len(reading.read_plans(reading.default_folder(), scale)[1].seeds) >= FEWEST
