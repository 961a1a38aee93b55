"""Rounds of a search: which part of its settings is trained with which seeds.

Successive halving (Jamieson and Talwalkar, 2016, arXiv 1502.07943) spends most where it is not
clear yet what is best. Its resource here is the number of training seeds: every setting is trained
with one, and from round to round the better half of them gets as many seeds again as it had. Each
further round costs about half of the first one. A shorter training would be the other
resource, but it is no fair one: length is among what is chosen, a compensation of earlier
predictions acts from the second epoch on, and a mean of weights over the last half.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """One round of a search.

    Attributes:
        settings: how many settings it trains.
        seeds: with which training seeds, each of them.
    """

    settings: int
    seeds: tuple[int, ...]

    @property
    def runs(self) -> int:
        """Training runs."""
        return self.settings * len(self.seeds)


def halving(trials: int, seeds: Sequence[int]) -> tuple[Round, ...]:
    """Return the rounds of a successive halving.

    Twelve settings and four seeds are 12 runs of the first seed, 6 of the second and 3 of the third
    and the fourth. It ends where one setting is left, or where all seeds are used.

    Args:
        trials: settings of the first round.
        seeds: of a setting that reaches the last round.
    """
    rounds = [Round(trials, tuple(seeds[:1]))]
    used = 1
    while used < len(seeds) and (kept := math.ceil(rounds[-1].settings / 2)) > 1:
        rounds.append(Round(kept, tuple(seeds[used : 2 * used])))
        used = min(2 * used, len(seeds))
    return tuple(rounds)
