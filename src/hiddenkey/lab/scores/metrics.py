"""Metrics by name, as GLUE defines them: scikit-learn and scipy do the arithmetic.

Every metric is better when larger. A correlation that is undefined, because one side is constant
or there is a single value, counts as 0.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    Values = np.ndarray[Any, Any]
else:
    Values = Any

Metric = Callable[[Values, Values], float]


def accuracy(predictions: Values, references: Values) -> float:
    """Share of predictions that equal the reference."""
    return float((predictions == references).mean())


def f1(predictions: Values, references: Values, average: str = "binary") -> float:
    """F1 of class 1 of a binary task, or the mean of all classes' with ``average="macro"``."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average=average, zero_division=0))


def matthews(predictions: Values, references: Values) -> float:
    """Matthews correlation of predicted and true classes."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(references, predictions))


def correlation(name: str, predictions: Values, references: Values) -> float:
    """Correlation of predicted and true scores, by a function of :mod:`scipy.stats`."""
    from scipy import stats

    if len(references) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(getattr(stats, name)(predictions, references).statistic)
    return value if math.isfinite(value) else 0.0


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "accuracy": accuracy,
        "f1": f1,
        "f1_macro": partial(f1, average="macro"),
        "matthews": matthews,
        "pearson": partial(correlation, "pearsonr"),
        "spearman": partial(correlation, "spearmanr"),
    }
)


def score(names: Sequence[str], predictions: ArrayLike, references: ArrayLike) -> dict[str, float]:
    """Compute the named metrics of predicted and true labels or scores."""
    import numpy as np

    predictions, references = np.asarray(predictions), np.asarray(references)
    return {name: METRICS[name](predictions, references) for name in names}
