"""Numbers and lists as a reader sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

MISSING: Final = "–"  # noqa: RUF001 - an en dash stands for "no value"
_DIGITS: Final = 3
_HUGE: Final = 1e9
"""Size from which nobody counts the digits of a number any more."""

_LONG_ROW: Final = 10
"""Neighbouring numbers of which the ends are shorter to read than all."""


def number(value: float | None, digits: int = _DIGITS) -> str:
    """Return a number with fixed decimals, or a dash; a huge one with an exponent."""
    return MISSING if value is None else _decimals(value, "", digits)


def signed(value: float | None, digits: int = _DIGITS) -> str:
    """Return a difference with its sign."""
    return MISSING if value is None else _decimals(value, "+", digits)


def interval(
    low: float | None, high: float | None, *, sign: bool = False, digits: int = _DIGITS
) -> str:
    """Return ``[low, high]``, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    show = signed if sign else number
    return f"[{show(low, digits)}, {show(high, digits)}]"


def probability(value: float | None) -> str:
    """Return a p-value as ``= 0.031`` or ``< 0.001``."""
    if value is None:
        return "unknown"
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def count(amount: int, one: str, many: str | None = None) -> str:
    """Return an amount with its noun."""
    return f"{amount} {one if amount == 1 else many or one + 's'}"


def failed_alike(failures: Iterable[tuple[str, str, int]]) -> list[str]:
    """Say which runs failed, those with the same error together.

    Args:
        failures: of each run its error in one line, what it was, and its seed.
    """
    groups: dict[str, dict[str, list[int]]] = {}
    for reason, what, seed in failures:
        groups.setdefault(reason, {}).setdefault(what, []).append(seed)
    lines = []
    for reason, runs in groups.items():
        amount = sum(map(len, runs.values()))
        named = [
            f"{what}, seed{'s' if len(seeds) > 1 else ''} {numbers(seeds)}"
            for what, seeds in runs.items()
        ]
        if amount == 1:
            lines.append(f"failed: {named[0]}: {reason}")
        else:
            lines.append(f"{amount} runs failed alike: {reason} ({'; '.join(named)})")
    return lines


def numbers(values: Iterable[int]) -> str:
    """Write whole numbers in a few words, of a row of neighbours its ends: ``0-19 100``."""
    rows: list[list[int]] = []
    for value in sorted(set(values)):
        if rows and value == rows[-1][-1] + 1:
            rows[-1].append(value)
        else:
            rows.append([value])
    words = [
        [f"{row[0]}-{row[-1]}"] if len(row) >= _LONG_ROW and row[0] >= 0 else map(str, row)
        for row in rows
    ]
    return " ".join(word for each in words for word in each)


def listing(items: Sequence[str], limit: int = 4) -> str:
    """Join with commas and "and"; more than ``limit`` items are cut short."""
    if len(items) > limit:
        rest = len(items) - limit + 1
        return f"{', '.join(items[: limit - 1])} and {rest} more"
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def duration(seconds: float) -> str:
    """Return a time in a unit of its size."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.0f} days"


def _decimals(value: float, sign: str, digits: int) -> str:
    kind = "f" if abs(value) < _HUGE else "e"
    rounded = _rounded(value, digits) if kind == "f" else value
    return f"{rounded:{sign}.{digits}{kind}}".replace("-", "−")


def _rounded(value: float, digits: int) -> float:
    """Round, and turn the negative zero that rounding may leave into zero."""
    return round(value, digits) + 0.0
