"""How a budget is shared out: the first look, equally many trials for both sides, the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.compare.prospects import SEEDS
from hiddenkey.lab.plans.halving import Round
from hiddenkey.lab.plans.search import Algorithm, rounds_of

LOOKS: Final = 4
"""Runs of plain LoRA that show whether it overfits."""

TRIALS: Final = 12
"""Trials of each side where nobody says."""

FEWEST_TRIALS: Final = 4
MOST_TRIALS: Final = 60
"""More of them find little in so small a space but the noise of the held-out examples."""


@dataclass(frozen=True)
class Prices:
    """What a run costs, in runs or in seconds.

    Attributes:
        plain: a run of the baseline.
        other: a run of another method, on average.
    """

    plain: float = 1.0
    other: float = 1.0

    @property
    def pair(self) -> float:
        """One of each."""
        return self.plain + self.other


@dataclass(frozen=True)
class Effort:
    """What is run.

    Attributes:
        trials: of plain LoRA, and as many of the other methods.
        per_trial: seeds of a trial; of halving those of the last ones.
        seeds: pairs of the confirmation.
        algorithm: of the search.
    """

    trials: int
    per_trial: int
    seeds: int
    algorithm: Algorithm = "tpe"

    @property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of each side's search, with numbers in place of its seeds."""
        return rounds_of(self.algorithm, self.trials, range(self.per_trial))

    @property
    def choosing(self) -> int:
        """Training runs that choose for each side."""
        return sum(each.runs for each in self.rounds)

    @property
    def runs(self) -> int:
        """All runs, if plain LoRA overfits."""
        return LOOKS + 2 * (self.choosing + self.seeds)

    def price(self, prices: Prices) -> float:
        """What all of them cost."""
        return LOOKS * prices.plain + (self.choosing + self.seeds) * prices.pair


def share(
    budget: float,
    per_trial: int,
    wanted: int,
    fewest: int,
    prices: Prices,
    algorithm: Algorithm = "tpe",
) -> Effort | None:
    """Share out a budget, so that there are as many trials as seeds if possible.

    Args:
        budget: in the prices' unit.
        per_trial: seeds of a trial.
        wanted: pairs of the confirmation.
        fewest: pairs below which no verdict can be expected.
        prices: of the runs.
        algorithm: of the search.

    Returns:
        The effort; ``None`` if the budget is too small for a verdict.
    """
    pairs = math.floor((budget - LOOKS * prices.plain) / prices.pair + 1e-9)
    for seeds in range(wanted, fewest - 1, -1):
        least = min(seeds, MOST_TRIALS) if seeds > fewest else FEWEST_TRIALS
        for trials in range(MOST_TRIALS, least - 1, -1):
            effort = Effort(trials, per_trial, seeds, algorithm)
            if effort.choosing <= pairs - seeds:
                return effort
    return None


def effort_for(
    runs: int | None,
    seconds: float | None,
    per_trial: int,
    seeds: Sequence[int],
    prices: Prices,
    *,
    given: bool,
    trials: int = TRIALS,
    algorithm: Algorithm = "tpe",
    workers: int = 1,
) -> Effort:
    """Return what a budget allows.

    Args:
        runs: training runs in all; ``None`` without such a budget.
        seconds: from start to end; ``None`` without such a budget.
        per_trial: seeds of a trial.
        seeds: of the confirmation.
        prices: of a run, in seconds.
        given: the user named the seeds, so that none is left out.
        trials: of each side without a budget.
        algorithm: of the search.
        workers: runs at the same time.

    Raises:
        ConfigError: if it reaches no verdict, with the least budget that does.
    """
    if runs is None and seconds is None:
        return Effort(trials, per_trial, len(seeds), algorithm)
    fewest = len(seeds) if given else min(len(seeds), SEEDS[0])
    unit = prices if seconds is not None else Prices()
    budget = float(seconds * workers if seconds is not None else runs or 0)
    found = share(budget, per_trial, len(seeds), fewest, unit, algorithm)
    if found is not None:
        return found
    least = Effort(FEWEST_TRIALS, per_trial, fewest, algorithm)
    why = f"{LOOKS} to see whether plain LoRA overfits, twice {FEWEST_TRIALS} trials, twice"
    said = f"{why} {fewest} seeds"
    if seconds is None:
        raise ConfigError(
            f"runs must be at least {least.runs} to reach a verdict ({said}), got {runs}; give"
            f" --runs {least.runs}"
        )
    minutes = math.ceil(least.price(prices) / workers / 60)
    at_once = f" with {workers} workers" if workers > 1 else ""
    raise ConfigError(
        f"minutes must be at least about {minutes} to reach a verdict here ({said}, at"
        f" {prices.plain:.0f} s a run{at_once}), got {seconds / 60:.3g}; give more, or --runs"
    )
