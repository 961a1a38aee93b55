import math

import numpy as np
import pytest

from hiddenkey.lab.evidence.statistics import compare_paired, describe, rank_methods
from hiddenkey.lab.evidence.statistics.values import grid, on_grid

GOOD = [0.5, 0.6]


@pytest.mark.parametrize("bad", [None, math.nan, math.inf, -math.inf, "0.5"])
@pytest.mark.parametrize(
    ("call", "what"),
    [
        (describe, "values"),
        (lambda values: compare_paired(values, GOOD), "ours"),
        (lambda values: compare_paired(GOOD, values), "baseline"),
        (lambda values: rank_methods({"a": GOOD, "b": GOOD, "c": values}), "scores of 'c'"),
    ],
)
def test_what_is_no_number_is_refused(call, what, bad):
    with pytest.raises(ValueError, match=f"{what} must be finite numbers, got {bad!r}; leave out"):
        call([0.5, bad])


@pytest.mark.parametrize("call", [describe, lambda values: compare_paired(values, values)])
def test_no_values_are_refused(call):
    with pytest.raises(ValueError, match="at least one number, got none; finish a run"):
        call([])


@pytest.mark.parametrize("level", [0, 1, -0.1, 5, math.nan])
def test_a_level_is_a_share(level):
    with pytest.raises(ValueError, match=f"level must lie between 0 and 1, got {level}; 0.05 is"):
        compare_paired(GOOD, GOOD, level=level)


def test_numpy_numbers_are_numbers():
    assert describe(np.asarray(GOOD, dtype=np.float32)).mean == pytest.approx(0.55)


def test_differences_that_only_rounding_sets_apart_are_one_whole_number():
    differences = np.asarray([0.9 - 0.8, 0.8 - 0.7, 0.4 - 0.3])
    assert len(set(differences)) == 3
    steps = on_grid(differences, grid([0.9]))
    assert len(set(steps)) == 1
    assert np.ldexp(steps[0], -grid([0.9])) == pytest.approx(0.1, rel=1e-9)


@pytest.mark.parametrize("size", [1e-300, 1e-6, 1.0, 1e6, 1e300])
def test_a_difference_of_nine_digits_is_kept(size):
    assert on_grid(np.asarray([1e-9 * size]), grid([size]))[0] != 0
