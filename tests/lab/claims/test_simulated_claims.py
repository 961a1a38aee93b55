"""Many studies whose truth is known: how often a verdict is wrong, and how often it is found.

Differences on a task have a standard deviation of 1 point, and the margin is 1 point; 6 seeds on 3
tasks give a standard error of 0.24.
"""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from hiddenkey.lab.claims.effects import effect
from hiddenkey.lab.claims.evidence import judge
from hiddenkey.lab.claims.findings import expected_power
from lab.claims.studies import CONFIGURATIONS, TASKS, claim, contrast, drawn, scale, six

STUDIES = 300
LEVEL = 0.025


@pytest.fixture
def random():
    return np.random.default_rng(20240301)


def rare(studies=STUDIES):
    """The count of wrong verdicts that is exceeded by chance once in a thousand times."""
    return stats.binom.ppf(0.999, studies, LEVEL)


def of_questions(random, asked, gain, **settings):
    """Verdicts on one question."""
    return Counter(
        effect(asked, drawn(random, {"ours": gain}, **settings), TASKS).verdict
        for _ in range(STUDIES)
    )


def of_claims(random, asked, gains, *, studies=STUDIES, tasks=TASKS):
    """Verdicts on a claim."""
    return Counter(
        judge(asked, scale(), drawn(random, gains, tasks=tasks)).verdict for _ in range(studies)
    )


def of_six(random, gains, studies):
    gains = dict(zip(CONFIGURATIONS, gains, strict=True))
    return of_claims(random, six(tasks=TASKS[:1]), gains, studies=studies, tasks=TASKS[:1])


@pytest.mark.parametrize(
    ("expect", "gain", "wrong"),
    [
        # at the border of what is wrong, where mistakes are most frequent, and once beyond
        ("better", 0.0, "holds"),
        ("better", -1.0, "holds"),
        ("better", 1.0, "does not hold"),
        ("better", 3.0, "does not hold"),
        ("no better", 1.0, "holds"),
        ("no better", 0.0, "does not hold"),
        ("equal", 1.0, "holds"),
        ("equal", -1.0, "holds"),
        ("equal", 0.0, "does not hold"),
        ("between", 0.0, "does not hold"),
        ("between", -0.01, "holds"),
    ],
)
@pytest.mark.parametrize("examples", [None, 300])
def test_wrong_verdicts_are_as_rare_as_promised(random, expect, gain, wrong, examples):
    asked = contrast(expect, low=0.0, high=1.5)
    assert of_questions(random, asked, gain, examples=examples)[wrong] <= rare()


@pytest.mark.parametrize(
    ("expect", "gain", "right"),
    [
        ("better", 3.0, "holds"),
        ("better", -3.0, "does not hold"),
        ("no better", -3.0, "holds"),
        ("no better", 3.0, "does not hold"),
        ("equal", 3.0, "does not hold"),
        ("between", 1.0, "holds"),
    ],
)
def test_large_effects_are_found(random, expect, gain, right):
    asked = claim(contrast(expect, low=-2.0, high=4.0))
    assert of_claims(random, asked, {"ours": gain}, studies=100)[right] >= 99


def test_power_is_as_estimated(random):
    asked = claim(contrast())
    (power,) = expected_power(asked, scale())
    low, high = stats.binom.ppf([0.0005, 0.9995], STUDIES, power.detects)
    assert low <= of_claims(random, asked, {"ours": 1.0})["holds"] <= high
    # an effect of 0 that looks real by chance is not called a failure as well
    assert low - rare() <= of_claims(random, asked, {"ours": 0.0})["does not hold"] <= high


@pytest.mark.parametrize(
    ("gains", "wrong"),
    [
        # four hold beyond doubt, and none of the others: that five hold is false
        ((9, 9, 9, 9, 0, 0), "holds"),
        ((9, 9, 9, 9, -9, 0), "holds"),
        # one fails beyond doubt, and none of the others: that fewer than five hold is false
        ((-9, 1, 1, 1, 1, 1), "does not hold"),
    ],
)
def test_nearly_all_of_six_is_rarely_wrong(random, gains, wrong):
    assert of_six(random, gains, STUDIES)[wrong] <= rare()


@pytest.mark.parametrize(
    ("gains", "right"),
    [
        ((5, 5, 5, 5, 5, -5), "holds"),
        ((5, 5, 5, 5, 5, 0), "holds"),
        ((5, 5, 5, 5, -5, -5), "does not hold"),
        ((5, -5, -5, -5, -5, -5), "does not hold"),
    ],
)
def test_nearly_all_of_six_is_found(random, gains, right):
    assert of_six(random, gains, 100)[right] >= 95


def test_counting_verdicts_would_be_wrong_more_often(random):
    # the simulation can see a fault: one of six questions holds by chance far too often
    asked = six(need=0.1, tasks=TASKS[:1])
    found = [
        judge(asked, scale(), drawn(random, dict.fromkeys(CONFIGURATIONS, 0.0), tasks=TASKS[:1]))
        for _ in range(STUDIES)
    ]
    assert found[0].needed == 1
    assert sum(finding.verdict == "holds" for finding in found) <= rare()
    counted = (any(q.verdict == "holds" for q in finding.questions) for finding in found)
    assert sum(counted) > rare()


@pytest.mark.parametrize(("gain", "wrong"), [(0.0, "holds"), (1.0, "does not hold")])
def test_each_task_is_rarely_wrong(random, gain, wrong):
    asked = claim(contrast(), scope="each task", need=0.6)
    assert of_claims(random, asked, {"ours": gain})[wrong] <= rare()
