"""Methods against a baseline over seeds, by the one rule of inference, as a grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hiddenkey.lab.evidence.comparisons import (
    PairedComparison,
    adjust_holm,
    compare_paired,
    describe,
)
from hiddenkey.lab.present.entries import Entry, Grid, difference, make_grid, spread

ByMethod = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Quantity:
    """What methods are compared by.

    Attributes:
        label: its name.
        values: one for each seed, by method; the baseline is the first.
        larger_is_better: its direction.
    """

    label: str
    values: ByMethod
    larger_is_better: bool = True

    def comparisons(self) -> dict[str, PairedComparison]:
        """Compare the methods with the first, seed by seed; Holm's correction over them."""
        baseline, *others = self.values
        return adjust_holm(
            {
                method: compare_paired(
                    self.values[method],
                    self.values[baseline],
                    larger_is_better=self.larger_is_better,
                )
                for method in others
            }
        )


def methods_grid(
    name: str, title: str, quantities: Sequence[Quantity], notes: Sequence[str] = ()
) -> Grid:
    """Return a row for each method: means, and what each quantity differs from the baseline by."""
    compared = [quantity.comparisons() for quantity in quantities]
    rows = [
        [
            method,
            *(
                cell
                for quantity, found in zip(quantities, compared, strict=True)
                for cell in _cells(quantity.values[method], found.get(method))
            ),
        ]
        for method in quantities[0].values
    ]
    baseline = next(iter(quantities[0].values))
    labels = [q.label for q in quantities]
    columns = ["method", *(c for label in labels for c in (label, f"{label}: minus {baseline}"))]
    return make_grid(name, title, columns, rows, notes)


def verdicts(what: str, quantities: Sequence[Quantity]) -> list[str]:
    """Return the verdict of each quantity and method, as sentences."""
    sentences = []
    for quantity in quantities:
        words = [f"{method} {c.verdict}" for method, c in quantity.comparisons().items()]
        sentences.append(f"{what}, {quantity.label}: {', '.join(words)}.")
    return sentences


def _cells(values: Sequence[float], compared: PairedComparison | None) -> tuple[Entry, Entry]:
    mean = describe(values)
    shown = spread(mean)
    without = Entry(shown.text, shown.value)
    if compared is None:
        return without, Entry("", None)
    own = difference(compared.difference, (compared.low, compared.high), 4)
    return without, Entry(own.text, own.value, details=(*own.details, compared.verdict))
