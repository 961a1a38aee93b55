"""How far a classifier's probabilities can be believed.

A model that is right in 80 % of the cases in which it says 80 % is calibrated. Fine-tuning on few
examples ends in models that are far surer than they are right, which the metric alone does not
show. Functions take probabilities and labels and know nothing of models.

Probabilities are ``[examples, classes]`` with rows that sum to 1, labels the true classes
``[examples]`` from 0. Probabilities that are not finite, as a diverged model gives them, have no
calibration: NaN. Shapes that do not fit, no examples and labels that are no class are a ValueError.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from scipy.special import softmax

Values = np.ndarray[Any, Any]

CALIBRATION: Final = ("ece", "brier", "confidence")
"""What :func:`calibration` measures; evaluation lines hold them beside the task's metrics."""

BINS: Final = 15
"""Bins of the expected calibration error, as in its paper's tables."""


def class_probabilities(logits: Values) -> Values:
    """Softmax over the classes of logits of any float type, in float64; of NaN or ∞ it is NaN."""
    with np.errstate(invalid="ignore"):  # infinite minus infinite, of a diverged model
        return np.asarray(softmax(np.asarray(logits, dtype=np.float64), axis=-1))


def expected_calibration_error(probabilities: Values, labels: Values, bins: int = BINS) -> float:
    """Mean distance between confidence and accuracy, over bins of equal width in confidence.

    Guo et al. (2017), *On Calibration of Modern Neural Networks* (arXiv 1706.04599), equation 3:

        ECE = Σ_b (n_b / n) · |accuracy_b − confidence_b|

    The confidence of an example is its largest probability; bin b holds those in
    ((b − 1) / bins, b / bins]. Of a few hundred examples the estimate is biased upwards, since
    chance moves the accuracy of each bin: compare methods on the same examples.

    It is from 0 (calibrated) to 1 (always sure, never right).
    """
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}; {BINS} is usual")
    _check(probabilities, labels)
    if not np.isfinite(probabilities).all():
        return float("nan")
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == labels
    inner_edges = np.linspace(0.0, 1.0, bins + 1)[1:-1]
    places = np.digitize(confidence, inner_edges, right=True)
    surplus = np.bincount(places, weights=correct - confidence)  # n_b · (accuracy_b − confidence_b)
    return float(np.abs(surplus).sum() / len(labels))


def brier_score(probabilities: Values, labels: Values) -> float:
    """Mean squared distance between the probabilities and the one-hot label.

    Brier (1950), *Verification of Forecasts Expressed in Terms of Probability*, with the sum over
    all classes; scikit-learn's binary score is half of it. It is a proper score: nothing is gained
    by saying other than what one believes. It is from 0 (sure and right) to 2 (sure and wrong).
    """
    _check(probabilities, labels)
    one_hot = np.eye(probabilities.shape[-1])[labels]
    return float(np.square(probabilities - one_hot).sum(axis=-1).mean())


def mean_confidence(probabilities: Values) -> float:
    """Mean of the largest probability; above the accuracy, the model is surer than it is right."""
    return float(probabilities.max(axis=-1).mean())


def calibration(logits: Values, labels: Values) -> dict[str, float]:
    """Measure :data:`CALIBRATION` of a classifier's logits ``[examples, classes]``."""
    probabilities = class_probabilities(logits)
    return {
        "ece": expected_calibration_error(probabilities, labels),
        "brier": brier_score(probabilities, labels),
        "confidence": mean_confidence(probabilities),
    }


def _check(probabilities: Values, labels: Values) -> None:
    fitting = probabilities.ndim == 2 and labels.shape == probabilities.shape[:1]
    if not fitting or not labels.size:
        raise ValueError(
            "probabilities must be [examples, classes] and labels [examples], at least one, got"
            f" {list(probabilities.shape)} and {list(labels.shape)}; give a row for each label"
        )
    classes = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must be classes from 0 to {classes - 1}, got {labels.min()} to {labels.max()};"
            " leave out examples without a label"
        )
