import math

import numpy as np
import pytest
from scipy import stats

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.findings import expected_power
from hiddenkey.lab.claims.plan import Contrast
from lab.claims.studies import claim, contrast, drawn, scale

STUDIES = 800


def power_of(asked, **settings):
    (found,) = expected_power(claim(asked), scale(**settings))
    return found


def within(count, share):
    """Whether a count of studies is no rarer than one in a thousand."""
    return (
        stats.binom.ppf(0.0005, STUDIES, share) <= count <= stats.binom.ppf(0.9995, STUDIES, share)
    )


def test_five_seeds_by_hand():
    # one task, deviation 1, margin 2: the mean has a standard error of 1 / sqrt(5)
    found = power_of(contrast(margin=2.0), seeds=5, tasks=("first",))
    assert (found.contrast.name, found.design.pairs, found.design.tasks) == ("ours − LoRA", 5, 3)
    one = expected_power(claim(contrast(margin=2.0), tasks=("first",)), scale(seeds=5))[0]
    assert one.design.tasks == 1
    # expected deviation of 5 normal values: sqrt(2/4) gamma(5/2) / gamma(2) = 0.9400
    assert one.half_width == pytest.approx(2.776445 * 0.939986 / math.sqrt(5), rel=1e-5)
    # noncentral t by integration over the sample's deviation
    spread = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, 4) / 4)
    chance = np.mean(stats.norm.sf(2.776445 * spread - 2 * math.sqrt(5)))
    assert one.detects == pytest.approx(chance, abs=1e-4)
    assert one.excludes == one.detects


def test_noise_follows_weights_and_tasks():
    pair = contrast()
    mean_of_two = Contrast("two", {"a": 0.5, "b": 0.5, "lora": -1.0}, "metric", "better", 1.0)
    interaction = Contrast(
        "x", {"a": 1.0, "b": -1.0, "c": -1.0, "lora": 1.0}, "metric", "better", 1
    )
    widths = [
        found.half_width for found in expected_power(claim(pair, mean_of_two, interaction), scale())
    ]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(1.5 / 2))
    assert widths[2] / widths[0] == pytest.approx(math.sqrt(2))
    (single,) = expected_power(claim(pair, scope="each task"), scale())
    assert single.design.tasks == 1
    assert single.half_width / widths[0] == pytest.approx(math.sqrt(3))


@pytest.mark.parametrize("expect", ["better", "no better", "equal"])
def test_simulated_studies_have_the_estimated_power(expect):
    random = np.random.default_rng(20240301)
    asked = contrast(expect, margin=0.8)
    expected = power_of(asked, seeds=5)
    real = nothing = 0
    widths = []
    for _ in range(STUDIES):
        with_gain, without = (
            effect(asked, drawn(random, {"ours": gain}, seeds=5), ("first", "second", "third"))
            for gain in (0.8, 0.0)
        )
        above, small = (
            (with_gain.p_holds, without.p_fails)
            if expect == "better"
            else (with_gain.p_fails, without.p_holds)
        )
        real += above < 0.025
        nothing += small < 0.025
        widths.append((without.interval[1] - without.interval[0]) / 2)
    assert 0.2 < expected.detects < 0.9
    assert within(real, expected.detects)
    assert within(nothing, expected.excludes)
    assert np.mean(widths) == pytest.approx(expected.half_width, rel=0.03)


@pytest.mark.parametrize("expect", ["better", "equal"])
def test_seeds_needed_are_the_fewest(expect):
    asked = contrast(expect)
    one_task = ("first",)
    (planned,) = expected_power(claim(asked, tasks=one_task), scale(deviation=1.5))
    needed = planned.needed

    def detects(seeds):
        plan = claim(asked, tasks=one_task)
        return expected_power(plan, scale(seeds=seeds, deviation=1.5))[0].detects

    assert detects(needed - 1) < 0.8 <= detects(needed)
    # the normal approximation, which a t-test needs a little more than
    quantile = stats.norm.isf(0.025 if expect == "better" else 0.0125)
    rough = (1.5 * (quantile + stats.norm.isf(0.2))) ** 2
    assert rough < needed < rough + 4
    assert power_of(asked, deviation=1.5).needed < needed


def test_few_seeds_show_nothing():
    for seeds in (1, 2):
        found = expected_power(claim(contrast("equal"), tasks=("first",)), scale(seeds=seeds))[0]
        assert (found.detects, found.excludes) == (0.0, 0.0)
        assert found.half_width == math.inf


def test_what_is_not_in_points_or_has_no_margin_is_not_estimated():
    asked = (
        contrast("equal", measure="step time"),
        contrast(measure="loss"),
        contrast("between", low=0.0, high=1.0),
    )
    assert expected_power(claim(*asked), scale()) == ()
    assert expected_power(claim(contrast(), tasks=()), scale()) == ()


def test_hopeless_and_sure_plans():
    assert power_of(contrast(margin=0.01), deviation=10.0).needed is None
    assert power_of(contrast(margin=100.0), deviation=0.1).needed == 3
    assert power_of(contrast(margin=100.0), deviation=0.1).detects == pytest.approx(1.0)
