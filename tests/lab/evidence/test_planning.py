import math

import numpy as np
import pytest
from scipy import stats

from hiddenkey.lab.evidence.inference import Estimate, excludes
from hiddenkey.lab.evidence.planning import Design


def test_five_pairs_by_hand():
    # expected deviation of 5 normal values: sqrt(2/4) gamma(5/2) / gamma(2) = 0.9400
    design = Design(pairs=5, deviation=1.0)
    assert design.half_width() == pytest.approx(2.776445 * 0.939986 / math.sqrt(5), rel=1e-5)
    # noncentral t by integration over the sample's deviation
    spread = np.sqrt(stats.chi2.ppf((np.arange(20_000) + 0.5) / 20_000, 4) / 4)
    chance = np.mean(stats.norm.sf(2.776445 * spread - 2 * math.sqrt(5)))
    assert design.power(2.0) == pytest.approx(chance, abs=1e-4)


def test_simulated_studies_have_the_planned_power_and_width():
    random, design = np.random.default_rng(5), Design(pairs=5, deviation=0.5)
    found = [Estimate.of(row) for row in random.normal(0.8, 0.5, size=(2000, 5))]
    shown = sum(excludes(estimate.interval()) for estimate in found)
    low, high = stats.binom.ppf([0.0005, 0.9995], 2000, design.power(0.8))
    assert low <= shown <= high
    widths = [estimate.interval()[1] - estimate.mean for estimate in found]
    assert np.mean(widths) == pytest.approx(design.half_width(), rel=0.03)


@pytest.mark.parametrize("pairs", [3, 4, 5, 10, 100])
@pytest.mark.parametrize("family", [1, 5, 40])
def test_the_detectable_difference_has_the_chance_asked_for(pairs, family):
    design = Design(pairs, deviation=0.02, family=family)
    assert design.power(design.detectable()) == pytest.approx(0.8, abs=1e-6)
    assert design.power(design.detectable(0.5)) == pytest.approx(0.5, abs=1e-6)


def test_tasks_narrow_and_a_family_widens():
    one = Design(5, 0.02)
    assert Design(5, 0.02, tasks=4).half_width() == pytest.approx(one.half_width() / 2)
    assert Design(5, 0.02, family=6).half_width() > one.half_width()
    assert Design(5, 0.02, family=6).detectable() > one.detectable()


def test_pairs_needed_are_the_fewest():
    design = Design(3, deviation=1.5)
    needed = design.pairs_needed(1.0)
    assert Design(needed - 1, 1.5).power(1.0) < 0.8 <= Design(needed, 1.5).power(1.0)
    # the normal approximation, which a t-test needs a little more than
    rough = (1.5 * (stats.norm.isf(0.025) + stats.norm.isf(0.2))) ** 2
    assert rough < needed < rough + 4
    assert design.pairs_needed(0.001) is None
    assert Design(3, 1e-3).pairs_needed(1.0) == 3


def test_pairs_to_narrow_are_the_fewest():
    needed = Design(3, 0.02).pairs_to_narrow(0.01)
    assert Design(needed, 0.02).half_width() <= 0.01 < Design(needed - 1, 0.02).half_width()
    assert Design(3, 1.0).pairs_to_narrow(1e-6) is None


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_fewer_than_three_pairs_show_nothing(pairs):
    design = Design(pairs, 0.02)
    assert design.power(9.0) == 0.0
    assert design.half_width() == design.detectable() == math.inf
    assert Design(pairs, 0.02).equivalence(9.0) == 0.0


def test_no_scatter_shows_everything():
    design = Design(3, 0.0)
    assert (design.detectable(), design.power(0.1)) == (0.0, 1.0)
    assert Design(3, 0.0).equivalence(0.1) == 1.0


@pytest.mark.parametrize("pairs", [4, 10, 30])
def test_simulated_equivalence(pairs):
    random = np.random.default_rng(pairs)
    margin, design = 4 / math.sqrt(pairs), Design(pairs, 1.0)
    rows = random.normal(0, 1, size=(2000, pairs))
    shown = sum(Estimate.of(row).within(-margin, margin) < 0.025 for row in rows)
    low, high = stats.binom.ppf([0.0005, 0.9995], 2000, design.equivalence(margin))
    assert low <= shown <= high
    assert design.power(margin) > design.equivalence(margin)
