"""What in the examples of a run misleads whoever reads its results, in sentences."""

from __future__ import annotations

from hiddenkey.lab.tasks.base import Example, Kind, Splits
from hiddenkey.lab.tasks.sampling import text_of


def remarks(splits: Splits, kind: Kind) -> tuple[str, ...]:
    """Say what cannot be learnt, is known beforehand or needs no learning to be right."""
    about_classes = (*_untrained(splits), *_one_class(splits)) if kind == "classification" else ()
    return *_repeated(splits), *about_classes


def _repeated(splits: Splits) -> list[str]:
    """Evaluation examples that are trained on: what was learnt by heart counts as right."""
    trained = {_prompt(example) for example in splits.train}
    repeated = sum(_prompt(example) in trained for example in splits.evaluation)
    if not repeated:
        return []
    return [
        f"{repeated:,} of {len(splits.evaluation):,} evaluation examples have the text of a"
        " training example, so results are better than on new texts"
    ]


def _untrained(splits: Splits) -> list[str]:
    trained = {example.label for example in splits.train}
    lost = [example.label for example in splits.evaluation if example.label not in trained]
    if not lost:
        return []
    classes = {*lost}
    name = splits.label_names[int(min(classes))]
    return [
        f"{len(classes)} of {len(splits.label_names)} classes have evaluation examples and no"
        f" training example, {name!r} for one: {len(lost):,} of {len(splits.evaluation):,}"
        " evaluation examples cannot be learnt"
    ]


def _one_class(splits: Splits) -> list[str]:
    classes = {example.label for example in splits.evaluation}
    if len(classes) != 1:
        return []
    name = splits.label_names[int(*classes)]
    return [f"all evaluation examples are {name!r}, so always answering that is right"]


def _prompt(example: Example) -> tuple[object, ...]:
    return text_of(example), example.turns
