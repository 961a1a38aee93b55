"""Metrics by name, as GLUE defines them: scikit-learn and scipy do the arithmetic.

Every metric is better when larger. A correlation that is undefined, because one side is constant,
counts as 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

    Values = np.ndarray[Any, Any]
else:
    Values = Any

Metric = Callable[[Values, Values], float]


def accuracy(predictions: Values, references: Values) -> float:
    """Share of predictions that equal the reference."""
    return float((predictions == references).mean())


def f1(predictions: Values, references: Values) -> float:
    """F1 of class 1 of a binary task."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, zero_division=0))


def f1_macro(predictions: Values, references: Values) -> float:
    """Mean over classes of the F1 of each."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro", zero_division=0))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews correlation of predicted and true classes."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, predictions))


def pearson(predictions: Values, references: Values) -> float:
    """Linear correlation of predicted and true scores."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def spearman(predictions: Values, references: Values) -> float:
    """Rank correlation of predicted and true scores."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, references)


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "f1": f1,
        "f1_macro": f1_macro,
        "matthews": matthews,
        "pearson": pearson,
        "spearman": spearman,
    }
)


def score(names: Sequence[str], predictions: Values, references: Values) -> dict[str, float]:
    """Compute the named metrics of predicted and true labels or scores."""
    return {name: METRICS[name](predictions, references) for name in names}


def _correlation(function: Callable[..., Any], predictions: Values, references: Values) -> float:
    from scipy.stats import ConstantInputWarning, NearConstantInputWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        warnings.simplefilter("ignore", NearConstantInputWarning)
        value = float(function(predictions, references).statistic)
    return value if math.isfinite(value) else 0.0
