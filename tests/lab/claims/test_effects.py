import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.plan import Contrast
from hiddenkey.lab.evidence.comparisons import compare_paired
from lab.claims.studies import contrast, of_effects

KINDS = ("better", "no better", "equal")
# multiples of 1/8 up to 10: sums of them lose nothing
EFFECTS = st.lists(st.integers(-80, 80).map(lambda eighths: eighths / 8), min_size=3, max_size=8)
SHIFTS = st.integers(0, 80).map(lambda eighths: eighths / 8)


def on_first(asked, effects):
    return effect(asked, of_effects(effects), ("first",), "first")


def timed(expect, ratios, **ends):
    asked = contrast(expect, measure="step time", **ends)
    return effect(asked, {("first", "ours", "step time"): dict(enumerate(ratios))}, ("first",))


def above(t):
    """P-value of t with 2 degrees of freedom: the distribution is (1 + t / sqrt(2 + t^2)) / 2."""
    return (1 - t / math.sqrt(2 + t * t)) / 2


# Effects 1, 2, 3: mean 2 and variance 1, to which their steps of 1 add a twelfth, by three seeds.
ERROR = math.sqrt(13 / 12 / 3)


def test_three_seeds_by_hand():
    found = on_first(contrast("better"), [1.0, 2.0, 3.0])
    assert found.values == (1.0, 2.0, 3.0)
    assert found.mean == 2.0
    assert found.interval == pytest.approx((2 - 4.302653 * ERROR, 2 + 4.302653 * ERROR), abs=1e-6)
    assert found.p_holds == pytest.approx(above(2 / ERROR))
    assert found.p_fails == pytest.approx(above(-1 / ERROR))
    assert found.verdict == "cannot tell"
    assert (found.task, found.tasks) == ("first", ())


def test_what_each_expectation_asks():
    # The same effects: 2 above 0, 1 above the margin of 1, 3 above -1.
    zero, margin = 2 / ERROR, 1 / ERROR
    asked = {
        "no better": (1 - above(margin), above(zero)),
        "equal": (1 - above(margin), 2 * above(zero)),
    }
    for expect, p_values in asked.items():
        found = on_first(contrast(expect), [1.0, 2.0, 3.0])
        assert (found.p_holds, found.p_fails) == pytest.approx(p_values), expect
    # from 1 to 4: 1 above the lower end, 2 below the upper one
    found = on_first(contrast("between", low=1.0, high=4.0), [1.0, 2.0, 3.0])
    assert found.p_holds == pytest.approx(above(margin))
    assert found.p_fails == pytest.approx(1.0)
    # from 3 on: one end, so nothing is doubled
    found = on_first(contrast("between", low=3.0), [1.0, 2.0, 3.0])
    assert found.p_holds == pytest.approx(1 - above(margin))
    assert found.p_fails == pytest.approx(above(margin))


@pytest.mark.parametrize(
    ("expect", "centre", "verdict"),
    [
        ("better", 2.0, "holds"),
        ("better", 0.5, "holds"),  # and below the margin: holds, but negligible
        ("better", 0.0, "does not hold"),
        ("better", -2.0, "does not hold"),
        ("no better", 2.0, "does not hold"),
        ("no better", 0.5, "holds"),
        ("no better", -2.0, "holds"),
        ("equal", 2.0, "does not hold"),
        ("equal", 0.5, "holds"),
        ("equal", 0.0, "holds"),
        ("equal", -2.0, "does not hold"),
        ("between", 2.0, "does not hold"),
        ("between", 1.0, "holds"),
        ("between", 0.0, "does not hold"),
    ],
)
def test_verdicts_of_precise_effects(expect, centre, verdict):
    effects = [centre + wobble for wobble in (-0.02, -0.01, 0.0, 0.01, 0.02)]
    assert on_first(contrast(expect, low=0.5, high=1.5), effects).verdict == verdict


@pytest.mark.parametrize("expect", [*KINDS, "between"])
@pytest.mark.parametrize("centre", [-5.0, 0.0, 5.0])
def test_noise_tells_nothing(expect, centre):
    effects = [centre + wobble for wobble in (-30.0, 10.0, -10.0, 30.0)]
    found = on_first(contrast(expect, low=-1.0, high=1.0), effects)
    assert found.verdict == "cannot tell"


def test_means_over_tasks_are_by_seed():
    values = of_effects([1.0, 2.0, 6.0], task="first") | of_effects([3.0, 2.0, 0.0], task="second")
    found = effect(contrast(), values, ("first", "second"))
    assert found.values == (2.0, 2.0, 3.0)
    assert (found.task, found.tasks) == (None, ("first", "second"))
    alone = effect(contrast(), values, ("first", "second"), "second")
    assert alone.values == (3.0, 2.0, 0.0)


def test_a_seed_needs_all_configurations_on_all_tasks():
    values = of_effects([1.0, 2.0, 3.0], task="first") | of_effects([3.0, 4.0, 5.0], task="second")
    del values["first", "ours", "metric"][0]
    del values["second", "lora", "metric"][2]
    assert effect(contrast(), values, ("first", "second")).values == (3.0,)
    assert effect(contrast(), values, (), "first").values == (2.0, 3.0)
    nothing = effect(contrast(), values, ("first", "third"))
    assert (nothing.values, nothing.mean, nothing.interval) == ((), None, None)
    assert (nothing.p_holds, nothing.p_fails, nothing.verdict) == (1.0, 1.0, "cannot tell")


def three_tasks(*effects):
    names = ("first", "second", "third")
    values = {}
    for name, own in zip(names, effects, strict=True):
        values |= of_effects(own, task=name)
    return effect(contrast(), values, names)


def test_tasks_can_be_a_sample_too():
    """Tasks' means of 1, 2 and 3: mean 2 and a standard error of 1 / sqrt(3), 2 degrees."""
    found = three_tasks([0.9, 1.0, 1.1], [1.9, 2.1, 2.0], [3.1, 2.9, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert found.interval_over_tasks == pytest.approx((2 - half, 2 + half), abs=1e-6)
    low, high = found.interval
    assert low > 1.8
    assert high < 2.2
    assert found.p_holds == pytest.approx(found.estimate.above(0))


def test_an_interval_over_tasks_is_never_the_narrower_one():
    found = three_tasks([1.0, 2.0, 3.0], [1.1, 2.1, 3.1], [0.9, 1.9, 2.9])
    assert found.between_tasks.deviation == pytest.approx(0.1)
    assert found.interval_over_tasks == found.interval


def test_too_few_tasks_or_unequal_seeds_have_no_interval_over_tasks():
    values = of_effects([1.0, 2.0, 6.0], task="first") | of_effects([3.0, 2.0, 0.0], task="second")
    assert effect(contrast(), values, ("first", "second")).interval_over_tasks is None
    assert on_first(contrast(), [1.0, 2.0, 3.0]).interval_over_tasks is None
    assert three_tasks([1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0]).between_tasks is None
    assert three_tasks([], [], []).interval_over_tasks is None


def test_step_times_over_tasks_are_ratios():
    """Mean logarithms of the tasks' ratios in units of log 2: 1, 2, 3."""
    names = ("first", "second", "third")
    values = {
        (name, "ours", "step time"): {0: 2.0**power, 1: 2.1**power, 2: (4 / 2.1) ** power}
        for power, name in enumerate(names, 1)
    }
    found = effect(contrast("between", measure="step time", low=1, high=2), values, names)
    factor = 2 ** (4.302653 / math.sqrt(3))
    assert found.interval_over_tasks == pytest.approx((4 / factor, 4 * factor))


def test_weights_give_the_sign():
    # less gap is better: the better configuration has the negative weight
    asked = Contrast("smaller gap", {"ours": -1.0, "lora": 1.0}, "gap", "better", 1.0)
    effects = [-3.0, -3.1, -2.9, -3.05]
    found = effect(asked, of_effects(effects, measure="gap"), ("first",))
    assert found.mean == pytest.approx(3.0125)
    assert found.verdict == "holds"


def test_several_configurations_share_a_weight():
    asked = Contrast("both", {"a": 0.5, "b": 0.5, "lora": -1.0}, "metric", "better", 1.0)
    values = of_effects([1.0, 2.0], configuration="a") | of_effects([3.0, 6.0], configuration="b")
    assert effect(asked, values, ("first",)).values == (2.0, 4.0)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_below_three_seeds_nothing_is_concluded(count):
    for expect in (*KINDS, "between"):
        found = on_first(contrast(expect, low=99.0, high=101.0), [100.0, 100.001][:count])
        assert (found.p_holds, found.p_fails, found.verdict) == (1.0, 1.0, "cannot tell")
        assert found.interval is None


@pytest.mark.parametrize(
    ("count", "verdict"), [(3, "cannot tell"), (5, "cannot tell"), (6, "holds")]
)
def test_equal_seeds_count_as_signs(count, verdict):
    found = on_first(contrast("better"), [2.0] * count)
    assert found.mean == 2.0
    assert found.p_holds == pytest.approx(2.0**-count)
    assert found.p_fails > 0.5
    assert found.verdict == verdict
    assert on_first(contrast("equal"), [0.0] * count).verdict == verdict
    # exactly on the threshold is neither side
    edge = on_first(contrast("better"), [1.0] * count)
    assert (edge.p_holds, edge.p_fails) == pytest.approx((2.0**-count, 0.5))


def test_differences_that_only_rounding_sets_apart_are_equal():
    ours, plain = (0.9, 0.8, 0.7), (0.8, 0.7, 0.6)
    assert len({a - b for a, b in zip(ours, plain, strict=True)}) > 1
    values = {
        ("first", "ours", "metric"): dict(enumerate(ours)),
        ("first", "lora", "metric"): dict(enumerate(plain)),
    }
    found = effect(contrast(), values, ("first",))
    assert found.values == (0.1, 0.1, 0.1)
    assert found.p_holds == pytest.approx(1 / 8)


def test_step_times_are_ratios():
    # Logarithms of 2, 4, 8 in units of log 2: 1, 2, 3. Geometric mean 4; the interval's ends are 4
    # times and over 2 ** (4.302653 / sqrt(3)). Against 2: t = sqrt(3).
    found = timed("between", [2.0, 4.0, 8.0], low=2.0, high=math.inf)
    factor = 2 ** (4.302653 / math.sqrt(3))
    assert (found.mean, *found.interval) == pytest.approx((4, 4 / factor, 4 * factor))
    assert found.values == pytest.approx((2, 4, 8))
    assert found.p_holds == pytest.approx((1 - math.sqrt(3 / 5)) / 2)


@pytest.mark.parametrize(
    ("expect", "centre", "verdict"),
    [
        ("equal", 1.0, "holds"),
        ("equal", 1.2, "does not hold"),
        ("equal", 0.8, "does not hold"),
        ("no better", 1.05, "holds"),
        ("better", 1.2, "holds"),
        ("better", 0.9, "does not hold"),
    ],
)
def test_no_effect_on_a_step_time_is_a_ratio_of_1(expect, centre, verdict):
    ratios = [centre * wobble for wobble in (0.99, 1.0, 1.0, 1.01)]
    assert timed(expect, ratios, margin=0.1).verdict == verdict


@given(EFFECTS, st.sampled_from(KINDS))
def test_the_order_of_the_seeds_does_not_matter(effects, expect):
    one, other = (on_first(contrast(expect), e) for e in (effects, effects[::-1]))
    assert one.values == other.values[::-1]
    assert (one.mean, one.interval) == (other.mean, other.interval)
    assert (one.p_holds, one.p_fails) == (other.p_holds, other.p_fails)


@given(EFFECTS, SHIFTS, st.sampled_from(("better", "no better")))
def test_a_gain_for_every_seed_moves_the_verdict_one_way(effects, shift, expect):
    before, after = (
        on_first(contrast(expect), e) for e in (effects, [effect + shift for effect in effects])
    )
    gains = (before, after) if expect == "better" else (after, before)
    assert gains[1].p_holds <= gains[0].p_holds
    assert gains[1].p_fails >= gains[0].p_fails
    order = ("does not hold", "cannot tell", "holds")
    assert order.index(gains[1].verdict) >= order.index(gains[0].verdict)


@given(EFFECTS)
def test_losses_mirror_gains_where_the_expectation_has_two_sides(effects):
    one, other = (
        on_first(contrast("equal"), e) for e in (effects, [-effect for effect in effects])
    )
    assert (one.p_holds, one.p_fails, one.verdict) == (other.p_holds, other.p_fails, other.verdict)


@given(EFFECTS)
def test_verdicts_of_one_sided_questions_go_with_the_interval(effects):
    found = on_first(contrast("better"), effects)
    if found.interval is not None and found.estimate.deviation:
        assert (found.p_holds < 0.025) == (found.interval[0] > 0)
        assert (found.p_fails < 0.025) == (found.interval[1] < 1)


@given(EFFECTS)
def test_the_interval_is_that_of_a_paired_comparison(effects):
    found = on_first(contrast(), effects)
    paired = compare_paired(effects, [0.0] * len(effects))
    assert found.mean == pytest.approx(paired.difference, abs=1e-8)
    assert (found.interval is None) == (paired.interval is None)
    if found.interval is not None:
        assert found.interval == pytest.approx(paired.interval, abs=1e-8)
