"""Statistics of few seeds: summaries, paired comparisons and ranks over tasks.

A run of another seed is another draw, and most studies have three to ten of them. So the tests are
exact where they can be, they say when there are too few pairs to show anything, and nothing is read
off an interval alone. scipy does the arithmetic; functions take numbers and return plain values.
"""

from hiddenkey.lab.evidence.statistics.describe import Description, describe
from hiddenkey.lab.evidence.statistics.holm import adjust_holm
from hiddenkey.lab.evidence.statistics.paired import compare_paired
from hiddenkey.lab.evidence.statistics.ranks import Ranking, rank_methods
from hiddenkey.lab.evidence.statistics.verdict import EFFECT_SIZE, PairedComparison, Verdict

__all__ = [
    "EFFECT_SIZE",
    "Description",
    "PairedComparison",
    "Ranking",
    "Verdict",
    "adjust_holm",
    "compare_paired",
    "describe",
    "rank_methods",
]
