import math

import numpy as np
import pytest

from hiddenkey.lab.scores import METRICS as OF_TEXTS
from hiddenkey.lab.scores.metrics import METRICS, score
from hiddenkey.lab.tasks import TASKS

PREDICTED = np.array([1, 1, 0, 1, 0, 0, 1, 0])
TRUE = np.array([1, 0, 0, 1, 1, 0, 1, 0])
# true positives 3, true negatives 3, false positives 1, false negatives 1


def test_classification_metrics_from_the_confusion_counts():
    found = score(["accuracy", "f1", "f1_macro", "matthews"], PREDICTED, TRUE)
    assert found["accuracy"] == 6 / 8
    assert found["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["f1_macro"] == pytest.approx((0.75 + 0.75) / 2)
    assert found["matthews"] == pytest.approx((3 * 3 - 1 * 1) / math.sqrt(4 * 4 * 4 * 4))


def test_f1_macro_counts_each_class_once():
    found = score(["f1_macro", "accuracy"], np.array([0, 0, 0, 0]), np.array([0, 0, 0, 2]))
    assert found["f1_macro"] == pytest.approx((2 * 3 / 7 + 0) / 2)


def test_correlations_from_their_definitions():
    predicted, true = np.array([1.0, 2.0, 4.0, 3.0]), np.array([0.0, 1.0, 5.0, 9.0])
    a, b = predicted - predicted.mean(), true - true.mean()
    found = score(["pearson", "spearman"], predicted, true)
    assert found["pearson"] == pytest.approx((a @ b) / math.sqrt((a @ a) * (b @ b)))
    assert found["spearman"] == pytest.approx(1 - 6 * (0 + 0 + 1 + 1) / (4 * 15))


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_undefined_correlation_counts_as_zero(name):
    assert METRICS[name](np.ones(4), np.arange(4.0)) == 0.0
    assert METRICS[name](np.ones(1), np.ones(1)) == 0.0


def test_every_task_names_known_metrics():
    for task in TASKS.values():
        assert task.metrics
        known = OF_TEXTS[task.family] if task.kind == "generation" else METRICS
        assert set(task.metrics) <= set(known)
