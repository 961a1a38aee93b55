"""Simulates the rule of inference beside its rivals: level, power and coverage at few seeds.

    python benchmarks/inference.py            # two minutes; the tables of docs/results/inference.md
    python benchmarks/inference.py --quick    # seconds; rougher

Each study has n seeds and one paired difference per seed. What is drawn:

- *normal*: differences are normal;
- *both skewed*: each run is a lognormal loss with a few bad runs, so that differences are symmetric
  with heavy tails;
- *one skewed*: only ours has bad runs, so that differences are skewed, with mean 0;
- *heavy tails*: Student's t with 3 degrees of freedom;
- *accuracy of m*: m evaluation examples, of which so many are undecided, each a coin, that a
  difference varies by about 1.5 percentage points (1 of 50, 4 of 100, 40 of 300): with 50 examples
  nearly all differences are −1, 0 or 1 example.

What judges: the rule (Student's t with the variance that the values' steps leave, and the sign
test's error for equal differences), plain t, exact sign changes of the mean (permutation) and of
the signed ranks (Wilcoxon), both with ties and beyond 11 pairs with 1,023 random changes, and the
BCa bootstrap.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special, stats

from harness import markdown
from hiddenkey.lab.evidence.comparisons import adjust_holm, compare_paired
from hiddenkey.lab.evidence.inference import FEWEST, LEVEL, Estimate, excludes

Array = np.ndarray[Any, Any]
Judge = Callable[[Array, float, np.random.Generator], Array]
Draw = Callable[[np.random.Generator, tuple[int, int], float], tuple[Array, float]]

SEEDS = (3, 4, 5, 6, 8, 10, 20)
EXACT = 11
CHANGES = RESAMPLES = 1023
SKEW = 0.8
GAIN = 1.5
INTERVALS = ("the rule", "plain t", "BCa")


def normal(random: np.random.Generator, size: tuple[int, int], gain: float) -> tuple[Array, float]:
    """Differences, ``[studies, seeds]``, with mean ``gain`` standard deviations, and their mean."""
    return random.normal(gain, 1, size), gain


def heavy(random: np.random.Generator, size: tuple[int, int], gain: float) -> tuple[Array, float]:
    """Differences with heavy tails."""
    return gain + random.standard_t(3, size) / np.sqrt(3), gain


def both_skewed(
    random: np.random.Generator, size: tuple[int, int], gain: float
) -> tuple[Array, float]:
    """Differences of two runs that are both skewed."""
    return gain + (_bad_runs(random, size) - _bad_runs(random, size)) / np.sqrt(2), gain


def one_skewed(
    random: np.random.Generator, size: tuple[int, int], gain: float
) -> tuple[Array, float]:
    """Differences of a run that is skewed and one that hardly varies."""
    return gain - _bad_runs(random, size), gain


def _bad_runs(random: np.random.Generator, size: tuple[int, int]) -> Array:
    """Lognormal values with mean 0 and standard deviation 1."""
    mean = np.exp(SKEW**2 / 2)
    return (random.lognormal(0, SKEW, size) - mean) / (mean * np.sqrt(np.exp(SKEW**2) - 1))


def accuracy(undecided: int) -> Draw:
    """Differences of two accuracies, in examples, of which ``undecided`` are coins."""

    def draw(
        random: np.random.Generator, size: tuple[int, int], gain: float
    ) -> tuple[Array, float]:
        shift = min(0.98, gain * np.sqrt(undecided / 2) / undecided)
        ours = random.binomial(undecided, 0.5 + shift / 2, size)
        return (ours - random.binomial(undecided, 0.5 - shift / 2, size)).astype(float), (
            shift * undecided
        )

    return draw


DISTRIBUTIONS: Mapping[str, Draw] = {
    "normal": normal,
    "both skewed": both_skewed,
    "one skewed": one_skewed,
    "heavy tails": heavy,
    "accuracy of 50": accuracy(1),
    "accuracy of 100": accuracy(4),
    "accuracy of 300": accuracy(40),
}


# -- what judges: whether each study rejects that its mean is the given one


def by_rule(values: Array, mean: float, _: np.random.Generator) -> Array:
    """The rule of :class:`Estimate`, for many studies at once."""
    counts = values.shape[1]
    errors = np.sqrt((values.var(axis=1, ddof=1) + steps(values) ** 2 / 12) / counts)
    same = np.ptp(values, axis=1) == 0
    quantile = float(special.stdtrit(counts - 1, 1 - 2.0**-counts))
    errors[same] = np.abs(values[same, 0]) / quantile
    return _outside(values.mean(axis=1) - mean, errors, counts)


def steps(values: Array) -> Array:
    """Largest common step of each study's values; 0 for values that are not whole."""
    if not np.array_equal(values, np.rint(values)):
        return np.zeros(len(values))
    return np.gcd.reduce(np.abs(values).astype(int), axis=1).astype(float)


def by_t(values: Array, mean: float, _: np.random.Generator) -> Array:
    """Plain t; studies whose differences are all equal reject nothing below six seeds."""
    counts = values.shape[1]
    errors = values.std(axis=1, ddof=1) / np.sqrt(counts)
    found = _outside(values.mean(axis=1) - mean, errors, counts)
    same = errors == 0
    found[same] = (values[same, 0] != mean) & (2.0 ** (1 - counts) < LEVEL)
    return found


def _outside(distances: Array, errors: Array, counts: int) -> Array:
    """Whether 0 is outside the interval; one without an error shows nothing below six seeds."""
    reach = float(special.stdtrit(counts - 1, 1 - LEVEL / 2)) * errors
    known = (errors > 0) | (2.0 ** (1 - counts) < LEVEL)
    return np.asarray((np.abs(distances) > reach) & known)


def by_permutation(values: Array, mean: float, random: np.random.Generator) -> Array:
    """All sign changes of the mean difference, or random ones."""
    return _sign_changes(values - mean, random)


def by_ranks(values: Array, mean: float, random: np.random.Generator) -> Array:
    """Wilcoxon's signed ranks: zeros have none, ties share theirs; exact given the ties."""
    moved = np.round(values - mean, 9)
    ranks = stats.rankdata(np.abs(moved), axis=1) - (moved == 0).sum(axis=1, keepdims=True)
    return _sign_changes(np.sign(moved) * ranks, random)


def _sign_changes(values: Array, random: np.random.Generator) -> Array:
    counts = values.shape[1]
    if counts <= EXACT:
        bits = np.arange(2**counts)[:, None] >> np.arange(counts) & 1
        own = 0  # the study itself is among them
    else:
        bits, own = random.integers(0, 2, (CHANGES, counts)), 1
    signs = 2 * bits - 1
    found = np.empty(len(values), dtype=bool)
    for part in np.array_split(np.arange(len(values)), max(1, len(values) // 2000)):
        sums = np.abs(values[part] @ signs.T)
        observed = np.abs(values[part].sum(axis=1, keepdims=True))
        extreme = (sums >= observed - 1e-9 * (1 + observed)).sum(axis=1) + own
        found[part] = extreme / (len(signs) + own) <= LEVEL
    return found


def by_bootstrap(values: Array, mean: float, random: np.random.Generator) -> Array:
    """BCa: bias-corrected and accelerated bootstrap of the mean."""
    found = np.empty(len(values), dtype=bool)
    for part in np.array_split(np.arange(len(values)), max(1, len(values) // 200)):
        low, high = _bca(values[part], random)
        found[part] = (mean < low) | (mean > high)
    return found


def _bca(values: Array, random: np.random.Generator) -> tuple[Array, Array]:
    rows, counts = values.shape
    picked = random.integers(0, counts, (RESAMPLES, counts))
    means = np.sort(values[:, picked].mean(axis=2), axis=1)
    centre = values.mean(axis=1, keepdims=True)
    below = ((means < centre).sum(axis=1) + (means <= centre).sum(axis=1)) / 2 / RESAMPLES
    bias = special.ndtri(np.clip(below, 1 / RESAMPLES, 1 - 1 / RESAMPLES))
    moved = centre - values
    with np.errstate(invalid="ignore"):
        squares = (moved**2).sum(axis=1) ** 1.5
        skew = np.where(squares > 0, -(moved**3).sum(axis=1) / 6 / squares, 0.0)
    ends = []
    for share in (LEVEL / 2, 1 - LEVEL / 2):
        moved_quantile = bias + special.ndtri(share)
        level = special.ndtr(bias + moved_quantile / (1 - skew * moved_quantile))
        index = np.clip(np.rint(level * (RESAMPLES - 1)).astype(int), 0, RESAMPLES - 1)
        ends.append(means[np.arange(rows), index])
    return ends[0], ends[1]


PROCEDURES: Mapping[str, Judge] = {
    "the rule": by_rule,
    "plain t": by_t,
    "permutation": by_permutation,
    "Wilcoxon": by_ranks,
    "BCa": by_bootstrap,
}


def check_the_rule(random: np.random.Generator) -> None:
    """The many studies at once must be judged as the package judges each of them."""
    for name, draw in DISTRIBUTIONS.items():
        for counts in SEEDS:
            values, _ = draw(random, (50, counts), 0.7)
            single = [excludes(Estimate.of(row.tolist()).interval()) for row in values]
            if by_rule(values, 0.0, random).tolist() != single:
                raise AssertionError(
                    f"{name} with {counts} seeds is not judged as the package does"
                )


# -- the tables


def found(studies: int, random: np.random.Generator, gain: float) -> list[list[str]]:
    """Per cent of studies that are found: without a gain, and with one of ``gain`` deviations."""
    return _table(PROCEDURES, studies, random, (0.0, gain), lambda truth: 0.0)


def held(studies: int, random: np.random.Generator, gain: float) -> list[list[str]]:
    """Per cent of studies whose interval holds their true gain; of what has an interval."""
    kept = {name: judge for name, judge in PROCEDURES.items() if name in INTERVALS}
    rejected = _table(kept, studies, random, (gain,), lambda truth: truth)
    return [[*row[:2], *(f"{100 - float(cell):.1f}" for cell in row[2:])] for row in rejected]


def _table(
    procedures: Mapping[str, Judge],
    studies: int,
    random: np.random.Generator,
    gains: Sequence[float],
    point: Callable[[float], float],
) -> list[list[str]]:
    """Per cent of studies that reject a point, in a row for each distribution and procedure."""
    rows = []
    for name, draw in DISTRIBUTIONS.items():
        cells: dict[str, list[str]] = {procedure: [] for procedure in procedures}
        for counts in SEEDS:
            drawn = [draw(random, (studies, counts), gain) for gain in gains]
            for procedure, judge in procedures.items():
                used = studies // 4 if procedure == "BCa" else studies
                shares = [judge(v[:used], point(truth), random).mean() for v, truth in drawn]
                cells[procedure].append(" · ".join(f"{100 * share:.1f}" for share in shares))
        rows += [[name, procedure, *numbers] for procedure, numbers in cells.items()]
    return rows


def pooled(studies: int, random: np.random.Generator) -> list[list[str]]:
    """Rejections, in per cent, of means over tasks: by seed, and by adding up variances."""
    rows = []
    for tasks in (2, 6):
        for correlation in (0.0, 0.25, 0.5):
            for how, judge in (("by seed", _by_seed), ("variances added up", _by_task)):
                cells = []
                for gain in (0.0, 1.0):
                    for counts in (3, 5, 10):
                        shared = random.normal(0, np.sqrt(correlation), (studies, 1, counts))
                        own = random.normal(0, np.sqrt(1 - correlation), (studies, tasks, counts))
                        cells.append(f"{100 * judge(shared + own + gain).mean():.1f}")
                rows.append([str(tasks), f"{correlation:g}", how, *cells])
    return rows


def _by_seed(values: Array) -> Array:
    """A seed's effect is the mean over the tasks; ``values`` are ``[studies, tasks, seeds]``."""
    return by_t(values.mean(axis=1), 0.0, np.random.default_rng(0))


def _by_task(values: Array) -> Array:
    """The tasks' variances are added up, with Satterthwaite's degrees of freedom."""
    _, tasks, counts = values.shape
    parts = values.var(axis=2, ddof=1) / counts / tasks**2
    error = np.sqrt(parts.sum(axis=1))
    free = parts.sum(axis=1) ** 2 / (parts**2 / (counts - 1)).sum(axis=1)
    return np.asarray(
        np.abs(values.mean(axis=(1, 2))) > special.stdtrit(free, 1 - LEVEL / 2) * error
    )


def families(studies: int, random: np.random.Generator) -> list[list[str]]:
    """Families of five that share a baseline: how often any differs, and interval and verdict."""
    rows = []
    for counts in (3, 5, 8):
        alarms = split = 0
        for _ in range(studies):
            baseline, *others = random.normal(0.8, 0.01, (6, counts)).round(2)
            found = adjust_holm(
                {key: compare_paired(ours, baseline) for key, ours in enumerate(others)}
            ).values()
            alarms += any(each.verdict in ("better", "worse") for each in found)
            split += sum(excludes(each.interval) != (each.p_adjusted < LEVEL) for each in found)
        rows.append([str(counts), f"{100 * alarms / studies:.1f}", str(split)])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the studies")
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args(arguments)
    random = np.random.default_rng(options.seed)
    studies = 2_000 if options.quick else 20_000
    check_the_rule(random)
    columns = ["differences", "procedure", *(f"n = {counts}" for counts in SEEDS)]
    print(f"{studies:,} studies a cell, {studies // 4:,} for BCa; fewest seeds {FEWEST}.")
    print(
        f"\n**Level · power**: per cent found without a difference ({100 * LEVEL:g} are accepted),"
    )
    print(f"and with one of {GAIN:g} standard deviations.\n")
    print(markdown(columns, found(studies, random, GAIN)))
    print(f"\n**Coverage**: per cent of intervals that hold the true difference of {GAIN:g}.\n")
    print(markdown(columns, held(studies, random, GAIN)))
    print("\n**Pooling**: per cent of means over tasks that are found, without and with a gain.\n")
    heads = [f"{what}, n = {counts}" for what in ("level", "power") for counts in (3, 5, 10)]
    print(markdown(["tasks", "correlation", "procedure", *heads], pooled(studies, random)))
    print("\n**Families** of five with one baseline, after Holm, accuracies in steps of 0.01.\n")
    heads = ["n", "any false alarm, %", "interval and verdict disagree"]
    print(markdown(heads, families(studies // 20, random)))


if __name__ == "__main__":
    main()
