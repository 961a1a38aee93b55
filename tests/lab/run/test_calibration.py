"""Calibration against hand-worked cases, another derivation and scikit-learn."""

import math
import warnings

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from hiddenkey.lab.run.calibration import (
    CALIBRATION,
    brier_score,
    calibration,
    class_probabilities,
    expected_calibration_error,
    mean_confidence,
)


def two_classes(second):
    """Rows of the probabilities of two classes, from those of the second."""
    share = np.asarray(second, dtype=float)
    return np.stack([1 - share, share], axis=1)


def drawn(examples=400, classes=4):
    """Probabilities of random logits, and labels that know nothing of them."""
    generator = np.random.default_rng(0)
    logits = 3 * generator.standard_normal((examples, classes))
    return softmax(logits, axis=-1), generator.integers(classes, size=examples)


def test_ece_by_hand():
    # bins of width 0.1: two examples at 0.95, one of them right; two at 0.65, both right
    probabilities = two_classes([0.95, 0.95, 0.65, 0.35])
    labels = np.array([1, 0, 1, 0])
    by_hand = (2 / 4) * abs(1 / 2 - 0.95) + (2 / 4) * abs(2 / 2 - 0.65)
    assert expected_calibration_error(probabilities, labels, bins=10) == pytest.approx(by_hand)
    # in a single bin, too little and too much confidence make up for each other
    in_one = abs(3 / 4 - (0.95 + 0.95 + 0.65 + 0.65) / 4)
    assert expected_calibration_error(probabilities, labels, bins=1) == pytest.approx(in_one)


def test_a_bin_holds_its_upper_edge():
    # 0.75 lies in (0.5, 0.75] with 0.6, not in (0.75, 1] with 0.9; all numbers are exact
    probabilities = two_classes([0.75, 0.625, 0.875])
    labels = np.array([1, 0, 1])
    by_hand = abs(1 - 0.75 - 0.625) / 3 + abs(1 - 0.875) / 3
    assert expected_calibration_error(probabilities, labels, bins=4) == pytest.approx(by_hand)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_equals_its_definition(bins):
    probabilities, labels = drawn()
    total = 0.0
    for place in range(1, bins + 1):
        inside = [
            (max(row), int(row.argmax() == label))
            for row, label in zip(probabilities, labels, strict=True)
            if (place - 1) / bins < max(row) <= place / bins
        ]
        if inside:
            confidence, accuracy = np.mean(inside, axis=0)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(total)


def test_a_calibrated_predictor_has_no_error():
    # says 0.8 a hundred times and is right eighty times
    probabilities = two_classes([0.8] * 100)
    labels = np.array([1] * 80 + [0] * 20)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-12)
    assert mean_confidence(probabilities) == pytest.approx(0.8)


def test_a_perfect_predictor_has_no_error_at_all():
    labels = np.array([0, 2, 1, 1])
    probabilities = np.eye(3)[labels]
    assert expected_calibration_error(probabilities, labels) == 0
    assert brier_score(probabilities, labels) == 0
    assert mean_confidence(probabilities) == 1


def test_an_overconfident_predictor_errs_by_what_it_claims_too_much():
    # sure of class 0, which is right in one of four
    probabilities = np.tile([1.0, 0.0, 0.0, 0.0], (8, 1))
    labels = np.arange(8) % 4
    assert expected_calibration_error(probabilities, labels) == pytest.approx(3 / 4)
    assert brier_score(probabilities, labels) == pytest.approx(2 * 3 / 4)
    wrong = np.full(8, 1)
    assert expected_calibration_error(probabilities, wrong) == 1
    assert brier_score(probabilities, wrong) == 2


def test_brier_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    first = 0.3**2 + 0.2**2 + 0.1**2
    second = 0.1**2 + 0.7**2 + 0.6**2
    found = brier_score(probabilities, np.array([0, 1]))
    assert found == pytest.approx((first + second) / 2)


def test_brier_is_twice_the_binary_one_of_scikit_learn():
    generator = np.random.default_rng(1)
    share, labels = generator.random(200), generator.integers(2, size=200)
    expected = 2 * brier_score_loss(labels, share)
    assert brier_score(two_classes(share), labels) == pytest.approx(expected)


def test_probabilities_of_large_and_float16_logits():
    logits = np.array([[800.0, 799.0, -800.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(class_probabilities(logits), softmax(logits, axis=-1), rtol=1e-14)
    half = np.array([[1.5, 0.25]], dtype=np.float16)
    assert class_probabilities(half).dtype == np.float64
    assert class_probabilities(half).sum() == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_diverged_model_has_no_calibration_and_breaks_nothing(broken):
    logits = np.array([[broken, broken], [1.0, 2.0]], dtype=np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = calibration(logits, np.array([0, 1]))
    assert list(found) == list(CALIBRATION)
    assert all(math.isnan(value) for value in found.values())


def test_calibration_is_that_of_the_softmax():
    logits = np.random.default_rng(2).standard_normal((30, 3)).astype(np.float32)
    labels = np.arange(30) % 3
    probabilities = softmax(logits.astype(np.float64), axis=-1)
    found = calibration(logits, labels)
    assert found == pytest.approx(
        {
            "ece": expected_calibration_error(probabilities, labels),
            "brier": brier_score(probabilities, labels),
            "confidence": mean_confidence(probabilities),
        }
    )


def test_what_does_not_fit_is_refused():
    probabilities = two_classes([0.5, 0.5])
    with pytest.raises(ValueError, match=r"got \[2, 2\] and \[3\]; give a row for each label"):
        expected_calibration_error(probabilities, np.array([0, 1, 0]))
    with pytest.raises(ValueError, match=r"at least one, got \[0, 2\] and \[0\]"):
        brier_score(probabilities[:0], np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"from 0 to 1, got -100 to 1; leave out"):
        brier_score(probabilities, np.array([-100, 1]))
    with pytest.raises(ValueError, match=r"bins must be at least 1, got 0; 15 is usual"):
        expected_calibration_error(probabilities, np.array([0, 1]), bins=0)
