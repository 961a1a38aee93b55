"""Corpus metrics of generated text, as the official scorers of E2E and WebNLG define them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Final, Literal

from hiddenkey.lab.scores import answers, e2e, webnlg
from hiddenkey.lab.scores.java import MissingToolError, Tools, find_tools

__all__ = [
    "LOWER_IS_BETTER", "METRICS", "Family", "Scores", "lower_is_better", "score_groups"
]  # fmt: skip

Family = Literal["e2e", "webnlg", "completion"]

METRICS: Final[Mapping[Family, tuple[str, ...]]] = MappingProxyType(
    {
        "e2e": e2e.METRICS,
        "webnlg": webnlg.METRICS,
        "completion": (*e2e.METRICS, *answers.METRICS),
    }
)
LOWER_IS_BETTER: Final = frozenset({"TER"})
_ERRORS: Final = frozenset(
    ("loss", "perplexity", "ppl", "ter", "wer", "cer", "mse", "rmse", "mae", "error", "nll",
     "brier", "ece")
)  # fmt: skip
"""Last words of the names of other people's metrics that are better when smaller."""
_OTHERS: Final = frozenset(
    ("losses", "errors", "err", "logloss", "valloss", "evalloss", "testloss", "crossentropy",
     "xent", "bits", "bpb", "bpc", "bpd", "mape", "smape", "wape", "mase", "msle", "rmsle", "false",
     "fpr", "fnr", "fdr", "frr", "eer", "dcf", "der", "mce", "crps", "misclassification",
     "deviance", "divergence", "kl", "distance", "hamming", "fid", "kid", "fvd", "fad", "lpips",
     "hallucination", "hallucinations", "hallucinated", "latency", "regret")
)  # fmt: skip
"""Words that say so too, anywhere in a name, as those above do."""
_LARGER: Final = frozenset(
    ("accuracy", "acc", "f1", "auc", "auroc", "auprc", "roc", "precision", "recall", "tpr", "bleu",
     "rouge", "similarity", "correlation", "r2", "d2", "skill", "reduction", "improvement", "gain",
     "free")
)  # fmt: skip
"""Words beside which an error's is what a better metric is about: ``error_detection_f1``."""
_LIKELIHOODS: Final = frozenset(("likelihood", "loglikelihood", "elbo", "logprob"))
_NEGATIONS: Final = frozenset(("neg", "negative", "negated", "minus"))
_WORD_STARTS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def lower_is_better(name: str) -> bool:
    """Whether smaller values of a metric are better, as far as its name tells."""
    whole, split = _words(name), _words(_WORD_STARTS.sub(" ", name))
    negations = sum(word in _NEGATIONS for word in split) - _false_negatives(split)
    words = {*whole, *split}
    if negations and words & _LIKELIHOODS:
        return negations % 2 == 1
    if negations % 2:
        return False
    if any(found and found[-1] in _ERRORS for found in (whole, split)):
        return True
    found = words & (_ERRORS | _OTHERS) or {"cross", "entropy"} <= words
    return bool(found) and not words & _LARGER


def _words(name: str) -> list[str]:
    """The words of a name up to ``at`` (``recall@fpr``), without digits but in ``f1``, ``r2``."""
    words = re.findall(r"[a-z0-9]+|@", name.lower())
    found = [word if word in _LARGER else word.strip("0123456789") for word in words]
    ends = [place for place, word in enumerate(found) if place and word in ("at", "@")]
    return [word for word in found[: min(ends, default=None)] if word not in ("", "@", "epoch")]


def _false_negatives(words: Sequence[str]) -> int:
    return sum(pair == ("false", "negative") for pair in pairwise(words))


_Scorer = Callable[
    [Sequence[Sequence[str]], Sequence[str], Sequence[Sequence[int]], Tools | None],
    list[dict[str, float]],
]
_SCORERS: Final[Mapping[Family, _Scorer]] = {
    "e2e": e2e.score,
    "webnlg": webnlg.score,
    "completion": answers.score,
}


_WITH_JAVA: Final = ("METEOR", "ROUGE_L", "CIDEr")
"""Metrics that need METEOR's program or the Penn Treebank tokenizer."""


def skipped_without_java(family: Family) -> str | None:
    """Say before anything is scored which metrics will be skipped, and why; ``None``: none will."""
    try:
        find_tools()
    except MissingToolError as missing:
        names = [name for name in METRICS[family] if name in _WITH_JAVA]
        return f"{', '.join(names)}: skipped, {missing}"
    return None


@dataclass(frozen=True)
class Scores:
    """The metrics of one set of outputs.

    Attributes:
        values: by metric, on the scale of the official scorer.
        skipped: why a metric of the family was not computed, by metric.
        note: what means nothing for these references, if anything.
    """

    values: Mapping[str, float]
    skipped: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


def score_groups(
    family: Family,
    references: Sequence[Sequence[str]],
    outputs: Sequence[str],
    groups: Mapping[str, Sequence[int]],
) -> dict[str, Scores]:
    """Score groups of instances, each as if it were alone; the Java programs start only once.

    Args:
        family: whose scorer to follow.
        references: at least one text for each instance.
        outputs: one text for each instance, in the same order; may be empty.
        groups: indices of instances, at least one, by the group's name.

    Returns:
        For ``e2e`` BLEU, METEOR and ROUGE_L from 0 to 1, NIST and CIDEr without an upper bound; for
        ``completion`` these, exact match and token F1 from 0 to 1; for ``webnlg`` BLEU from 0 to
        100, METEOR from 0 to 1, and TER, 0 for no edit at all.

    Raises:
        ValueError: if the numbers of instances differ, there are none, or one has no reference.
        ConfigError: if a Java program that is installed fails.
    """
    if not outputs or len(references) != len(outputs):
        raise ValueError(
            "there must be one output for each instance, and at least one instance, got"
            f" {len(outputs)} outputs for {len(references)} instances; give as many of both"
        )
    for index, texts in enumerate(references):
        if not texts:
            raise ValueError(
                f"every instance must have a reference, got none for instance {index};"
                " leave the instance out"
            )
    for name, group in groups.items():
        if not group:
            raise ValueError(f"group {name!r} must hold an instance, got none; leave it out")
    distinct = list(dict.fromkeys(tuple(group) for group in groups.values()))
    tools, reason = None, ""
    try:
        tools = find_tools()
    except MissingToolError as missing:
        reason = str(missing)
    found = dict(zip(distinct, _SCORERS[family](references, outputs, distinct, tools), strict=True))
    note = answers.NOTE if answers.are_short(references) else ""
    return {
        name: _in_order(family, found[tuple(group)], reason, note) for name, group in groups.items()
    }


def _in_order(family: Family, values: Mapping[str, float], reason: str, note: str) -> Scores:
    """The family's metrics, and the reason for which the others were skipped."""
    return Scores(
        {name: values[name] for name in METRICS[family] if name in values},
        {name: reason for name in METRICS[family] if name not in values},
        note,
    )
