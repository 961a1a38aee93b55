"""Many studies without a difference: how often one is found, and that a real one is found."""

import numpy as np
import pytest
from scipy import stats

from hiddenkey.lab.evidence.comparisons import adjust_holm, compare_paired, describe
from hiddenkey.lab.evidence.ranks import rank_methods

STUDIES = 500
LEVEL = 0.05


def at_most(share, studies=STUDIES):
    """The count that is exceeded by chance once in a thousand times."""
    return stats.binom.ppf(0.999, studies, share)


def at_least(share, studies=STUDIES):
    return stats.binom.ppf(0.001, studies, share)


def study(random, *, methods, seeds, gain=0.0, examples=None):
    """Scores of a baseline and of methods that share each seed's luck, `[1 + methods, seeds]`.

    With `examples`, scores are accuracies on that many, so that ties are common.
    """
    luck = random.normal(0, 0.03, size=seeds)
    scores = 0.8 + luck + random.normal(0, 0.01, size=(1 + methods, seeds))
    scores[1:] += gain
    return scores if examples is None else np.round(scores * examples) / examples


@pytest.fixture
def random():
    return np.random.default_rng(20240301)


@pytest.mark.parametrize("examples", [None, 100])
@pytest.mark.parametrize("seeds", [3, 8])
def test_no_difference_is_found_no_more_often_than_the_level(random, examples, seeds):
    single = family = 0
    for _ in range(STUDIES):
        baseline, *others = study(random, methods=4, seeds=seeds, examples=examples)
        found = {key: compare_paired(ours, baseline) for key, ours in enumerate(others)}
        # one comparison per study, since those of a study share their baseline
        single += found[0].verdict in ("better", "worse")
        family += any(
            comparison.verdict in ("better", "worse") for comparison in adjust_holm(found).values()
        )
    assert at_least(0.0 if examples else LEVEL) <= single <= at_most(LEVEL)
    assert family <= at_most(LEVEL)


def test_without_a_correction_many_comparisons_would_find_something(random):
    # the simulation can see a fault: uncorrected, one of eight is found far too often
    found = 0
    for _ in range(200):
        baseline, *others = study(random, methods=8, seeds=8)
        found += any(compare_paired(ours, baseline).p_value <= LEVEL for ours in others)
    assert found > at_most(LEVEL, 200)


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, "better"), (-0.02, "worse")])
def test_a_real_difference_is_found(random, gain, verdict):
    # a gain of sqrt(2) standard deviations of the differences, with 8 pairs: t has a power of 0.9
    found = right = 0
    for _ in range(100):
        baseline, ours = study(random, methods=1, seeds=8, gain=gain)
        comparison = compare_paired(ours, baseline)
        found += comparison.verdict == verdict
        right += comparison.low <= gain <= comparison.high
    assert found >= at_least(0.85, 100)
    assert right >= at_least(0.95, 100)


def test_pairing_is_what_finds_it(random):
    # the seeds' luck hides the same gain from who does not pair
    found = 0
    for _ in range(100):
        baseline, ours = study(random, methods=1, seeds=8, gain=0.02)
        found += stats.ttest_ind(ours, baseline).pvalue <= LEVEL
    assert found <= 50


def test_three_seeds_find_what_is_large(random):
    found = 0
    for _ in range(100):
        baseline, ours = study(random, methods=1, seeds=3, gain=0.1)
        found += compare_paired(ours, baseline).verdict == "better"
    assert found >= 90


def test_intervals_hold_the_truth_as_often_as_they_say(random):
    of_mean = of_difference = 0
    for _ in range(STUDIES):
        values = random.normal(size=5)
        description = describe(values)
        of_mean += description.low <= 0 <= description.high
        comparison = compare_paired(values, [0.0] * 5)
        of_difference += comparison.low <= 0 <= comparison.high
    assert at_least(0.95) <= of_mean <= at_most(0.95)
    assert of_difference == of_mean


def test_a_ranking_keeps_the_level_and_finds_a_difference(random):
    found = apart = 0
    for _ in range(STUDIES):
        scores = random.normal(size=(4, 12))
        ranking = rank_methods(dict(zip("abcd", scores, strict=True)))
        found += ranking.p_value <= LEVEL
        scores[2] += 2
        ranking = rank_methods(dict(zip("abcd", scores, strict=True)))
        apart += next(iter(ranking.ranks)) == "c" and ranking.p_value <= LEVEL
    assert found <= at_most(LEVEL)
    assert apart >= 0.9 * STUDIES
