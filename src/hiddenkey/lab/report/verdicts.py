"""The answer for one task in plain words, also where it is "no" or "inconclusive"."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hiddenkey.lab.evidence.axes import Budget, Checkpoint
from hiddenkey.lab.evidence.cells import Cell
from hiddenkey.lab.evidence.comparisons import PairedComparison
from hiddenkey.lab.evidence.inference import FEWEST
from hiddenkey.lab.present.words import count, interval, listing, probability, signed
from hiddenkey.lab.report.choice import gain_of

Answer = Literal[
    "better", "worse", "mixed", "no clear difference", "inconclusive", "nothing to compare"
]
_Compared = Sequence[tuple[Cell, PairedComparison]]
_ORDER: Final = ("better", "worse", "no clear difference", "inconclusive")
_BUDGET: Final = {
    "steps": "",
    "time": ", all given the wall time that the baseline took",
}


@dataclass(frozen=True)
class Judgement:
    """The answer for one task in plain words.

    Attributes:
        answer: in one or two words.
        headline: the answer as a sentence.
        sentences: what it rests on, and what it does not say.
    """

    answer: Answer
    headline: str
    sentences: tuple[str, ...]


def judge(cells: Sequence[Cell], baseline: str, budget: Budget) -> Judgement:
    """Answer whether anything beats the baseline on one task.

    The answer rests on the last checkpoint, which nothing was chosen on.
    """
    last = _compared(cells, "last")
    if not last:
        return _nothing(cells, baseline)
    answer = _answer(last)
    sentences = [
        _basis(last, baseline, budget),
        *_effects(last, answer),
        *_by_method(last),
        *_best_checkpoint(cells),
        *_left_out(cells),
    ]
    return Judgement(answer, _headline(answer, last, baseline), tuple(sentences))


def effect_of(comparison: PairedComparison) -> str:
    """Return difference, interval, adjusted p and wins as one phrase."""
    p = comparison.p_value if comparison.p_adjusted is None else comparison.p_adjusted
    bounds = interval(comparison.low, comparison.high, sign=True)
    return (
        f"{signed(comparison.difference)}{' ' + bounds if bounds else ''}, p {probability(p)} after"
        f" Holm's correction, {count(comparison.wins, 'win')}, {count(comparison.ties, 'tie')} and"
        f" {count(comparison.losses, 'loss', 'losses')} by seed"
    )


def _compared(cells: Sequence[Cell], checkpoint: Checkpoint) -> _Compared:
    return [
        (cell, cell.comparison)
        for cell in cells
        if cell.is_main(checkpoint) and cell.comparison is not None
    ]


def _nothing(cells: Sequence[Cell], baseline: str) -> Judgement:
    reasons = sorted(
        {cell.reason for cell in cells if cell.reason and cell.configuration.method != baseline}
    )
    if not cells:
        sentence = "No run of this task finished; see the failed runs."
    elif not any(cell.configuration.method == baseline for cell in cells):
        sentence = (
            f"There is no run of the baseline {baseline}, so means stand alone: no difference can"
            " be tested. Add its runs, or name another baseline with --baseline."
        )
    elif all(cell.configuration.method == baseline for cell in cells):
        sentence = f"Only the baseline {baseline} has runs."
    else:
        sentence = (
            f"No method can be paired with {baseline}: {listing(reasons)}. At least"
            f" {FEWEST} common seeds are needed for a verdict."
        )
    return Judgement("nothing to compare", "Nothing to compare yet.", (sentence, *_left_out(cells)))


def _answer(compared: _Compared) -> Answer:
    found = {comparison.verdict for _, comparison in compared}
    if {"better", "worse"} <= found:
        return "mixed"
    for verdict in ("better", "worse", "inconclusive"):
        if verdict in found:
            return verdict
    return "no clear difference"


def _headline(answer: Answer, compared: _Compared, baseline: str) -> str:
    total = len(compared)
    names = {
        verdict: [
            cell.configuration.label
            for cell, comparison in compared
            if comparison.verdict == verdict
        ]
        for verdict in _ORDER
    }
    better, worse = names["better"], names["worse"]
    if answer == "better":
        return f"Yes: {_these(better, total)} better than {baseline}."
    if answer == "mixed":
        return (
            f"It depends on the configuration: {_these(better, total)} better than {baseline},"
            f" {_these(worse, total)} worse."
        )
    if answer == "worse":
        return f"No: {_these(worse, total)} worse than {baseline}, and none is better."
    if answer == "inconclusive":
        return f"Inconclusive ({_seeds(compared)}): no difference from {baseline} is shown."
    if total == 1:
        return f"No clear difference between {names[answer][0]} and {baseline}."
    return f"No clear difference between {baseline} and any of the {total} configurations."


def _these(labels: Sequence[str], total: int) -> str:
    """Name up to two configurations, and count more."""
    if len(labels) <= 2:
        return f"{listing(labels)} {'is' if len(labels) == 1 else 'are'}"
    return f"{len(labels)} of {total} configurations are"


def _basis(compared: _Compared, baseline: str, budget: Budget) -> str:
    metric = compared[0][0].measure.name
    family = count(len(compared), "comparison")
    return (
        f"Measured by {metric} after the last step{_BUDGET[budget]}; {_seeds(compared)}, each"
        f" paired with {baseline}'s run of the same seed; Student's t; Holm's correction over"
        f" {family}, in the intervals too."
    )


def _seeds(compared: _Compared) -> str:
    pairs = sorted({comparison.count for _, comparison in compared})
    return count(pairs[0], "seed") if len(pairs) == 1 else f"{pairs[0]} to {pairs[-1]} seeds"


def _effects(compared: _Compared, answer: Answer) -> list[str]:
    """The numbers behind the answer."""
    ordered = sorted(compared, key=lambda pair: -gain_of(pair[0]))
    shown = [pair for pair in ordered if pair[1].verdict in ("better", "worse")]
    sentences = [
        f"{cell.configuration.label}: {comparison.verdict}, {effect_of(comparison)}."
        for cell, comparison in shown[:3]
    ]
    if shown:
        return sentences
    cell, comparison = ordered[0]
    head = "The mean difference" if len(ordered) == 1 else "The most favourable mean difference"
    sentences.append(f"{head} is that of {cell.configuration.label}: {effect_of(comparison)}.")
    sentences += [comparison.note] if comparison.note else []
    if answer == "no clear difference":
        sentences.append(_room([comparison for _, comparison in compared]))
    return sentences


def _room(comparisons: Sequence[PairedComparison]) -> str:
    bounds = [c.interval for c in comparisons if c.interval is not None]
    low, high = min(low for low, _ in bounds), max(high for _, high in bounds)
    margin = max(c.margin for c in comparisons)
    return (
        f"No difference as large as {margin:.3g}: the intervals reach from {signed(low)} to"
        f" {signed(high)}."
    )


def _by_method(compared: _Compared) -> list[str]:
    """Count the configurations of each method, unless all have the same verdict."""
    if len({comparison.verdict for _, comparison in compared}) < 2:
        return []
    methods: dict[str, Counter[str]] = defaultdict(Counter)
    for cell, comparison in compared:
        methods[cell.configuration.method][comparison.verdict] += 1
    told = [f"{method}: {_counts(counts)}" for method, counts in methods.items()]
    return [f"By method — {'; '.join(told)}."]


def _counts(counts: Counter[str]) -> str:
    total = sum(counts.values())
    parts = [f"{verdict} in {counts[verdict]} of {total}" for verdict in _ORDER if counts[verdict]]
    return ", ".join(parts) if total > 1 else next(iter(counts))


def _best_checkpoint(cells: Sequence[Cell]) -> list[str]:
    compared = _compared(cells, "best")
    if not compared:
        return []
    counts: Counter[str] = Counter(comparison.verdict for _, comparison in compared)
    return [
        "At each run's best evaluation, which is chosen on the evaluation examples themselves, so"
        f" every number is too good: {_counts(counts)}."
    ]


def _left_out(cells: Sequence[Cell]) -> list[str]:
    main = [cell for cell in cells if cell.is_main("last")]
    sentences = []
    missing = [f"{cell.configuration.label} ({cell.missing})" for cell in main if cell.missing]
    if missing:
        sentences.append(
            f"Finished runs without a number are left out: {listing(missing)}. A run that diverged"
            " is a bad result, so these configurations look better here than they are."
        )
    failed = [f"{cell.configuration.label} ({cell.failed})" for cell in main if cell.failed]
    if failed:
        sentences.append(f"Failed runs are left out: {listing(failed)}; see the failed runs.")
    return sentences
