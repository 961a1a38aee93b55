"""The grid of methods holds what the one rule of inference says of them."""

import pytest
from scipy import stats

from study_comparisons import Quantity, methods_grid, verdicts

PLAIN = [0.70, 0.72, 0.71, 0.69, 0.73, 0.70]
BETTER = [
    value + gain for value, gain in zip(PLAIN, [0.05, 0.06, 0.05, 0.04, 0.06, 0.05], strict=True)
]
SAME = [
    value + gain for value, gain in zip(PLAIN, [0.02, -0.03, 0.01, 0.03, -0.02, 0.0], strict=True)
]


def test_intervals_are_student_s_after_holm():
    values = {"plain": PLAIN, "one": BETTER, "two": SAME}
    found = Quantity("accuracy", values).comparisons()
    differences = [a - b for a, b in zip(BETTER, PLAIN, strict=True)]
    # the first of two comparisons is tested at 0.025; differences are hundredths
    spread = (stats.tstd(differences) ** 2 + 0.01**2 / 12) / 6
    reach = stats.t.isf(0.0125, 5) * spread**0.5
    assert found["one"].difference == pytest.approx(0.31 / 6)
    assert found["one"].high == pytest.approx(0.31 / 6 + reach)
    assert (found["one"].verdict, found["two"].verdict) == ("better", "inconclusive")


def test_a_lower_loss_is_better():
    losses = Quantity("loss", {"plain": BETTER, "one": PLAIN}, larger_is_better=False)
    assert losses.comparisons()["one"].verdict == "better"
    assert verdicts("digits", [losses]) == ["digits, loss: one better."]


def test_the_grid_has_means_differences_and_verdicts():
    quantity = Quantity("accuracy", {"plain": PLAIN, "one": BETTER, "two": SAME})
    grid = methods_grid("digits", "accuracy", [quantity])
    assert grid.columns == ("method", "accuracy", "accuracy: minus plain")
    assert [row[0].text for row in grid.rows] == ["plain", "one", "two"]
    assert grid.rows[0][1].value == pytest.approx(sum(PLAIN) / 6)
    assert grid.rows[0][2].text == ""
    assert grid.rows[1][2].value == pytest.approx(0.31 / 6)
    assert grid.rows[1][2].details[-1] == "better"
    assert grid.rows[2][2].details[-1] == "inconclusive"
