"""Effects, margins and plans as a reader sees them."""

from __future__ import annotations

import math
from typing import Final

from hiddenkey.lab.claims.effects import Effect
from hiddenkey.lab.claims.plan import COST, Contrast
from hiddenkey.lab.present.words import MISSING, interval, number, signed
from hiddenkey.lab.run.result import PROBABILITY_MEASURES

_SMALL: Final = ("loss", *PROBABILITY_MEASURES)
UNITS: Final = {
    **dict.fromkeys(("metric", "best", "gap"), "points"), **dict.fromkeys(_SMALL, ""), COST: "×"
}  # fmt: skip
"""What a measure is counted in, percentage points as "points"; a loss has no unit."""


def _calibration(name: str) -> str:
    return name.replace("_", " ").replace("ece", "ECE").replace("brier", "Brier score")


AXES: Final = {
    "metric": "main metric, points",
    "best": "main metric at its best, points",
    "gap": "training − evaluation, points",
    "loss": "evaluation loss",
    **{name: _calibration(name) for name in PROBABILITY_MEASURES},
    COST: "step time, relative to LoRA's",
}
"""What stands at an axis of a figure."""


def value(found: float | None, measure: str) -> str:
    """Return a measured value; a step time as ``1.52×``."""
    text = number(found, _digits(measure))
    return f"{text}×" if measure == COST and found is not None else text


def difference(found: float | None, measure: str) -> str:
    """Return an effect with its sign; a step time's is a ratio and has none."""
    return value(found, measure) if measure == COST else signed(found, _digits(measure))


def bounds(ends: tuple[float, float] | None, measure: str) -> str:
    """Return ``[low, high]`` of an effect, or a dash without an interval."""
    low, high = ends or (None, None)
    return interval(low, high, sign=measure != COST, digits=_digits(measure)) or MISSING


def effect_text(effect: Effect) -> str:
    """Return an effect with its unit, and its interval in brackets."""
    measure = effect.contrast.measure
    if effect.mean is None:
        return "no value yet"
    unit = "" if measure == COST else UNITS[measure]
    ends = "" if effect.interval is None else bounds(effect.interval, measure)
    return " ".join(part for part in (difference(effect.mean, measure), unit, ends) if part)


def expectation(contrast: Contrast) -> str:
    """Say what the claim expects of an effect."""
    measure, none = contrast.measure, contrast.no_effect
    match contrast.expect:
        case "better":
            return f"above {none:g}"
        case "no better":
            return f"below {difference(none + contrast.margin, measure)}"
        case "equal":
            return f"within {margin(contrast)} of {none:g}"
        case "between":
            return _span(contrast.low, contrast.high, measure)


def margin(contrast: Contrast) -> str:
    """Return the smallest effect that would matter; a step time's is a share."""
    return size(contrast.margin, contrast.measure)


def size(amount: float, measure: str) -> str:
    """Return how large an effect is, with its unit and without its sign."""
    if measure == COST:
        return f"{100 * amount:g} %"
    unit = UNITS[measure].removesuffix("s") if amount == 1 else UNITS[measure]
    return f"{amount:g} {unit}".strip()


def setting(found: float | None) -> str:
    """Return a learning rate or a dropout rate without an exponent."""
    return MISSING if found is None else f"{found:.9f}".rstrip("0").rstrip(".")


def _span(low: float, high: float, measure: str) -> str:
    if math.isinf(low) or (measure == COST and low == 0):
        return f"at most {difference(high, measure)}"
    if math.isinf(high):
        return f"at least {difference(low, measure)}"
    return f"{difference(low, measure)} to {difference(high, measure)}"


def _digits(measure: str) -> int:
    return 4 if measure in _SMALL else 2
