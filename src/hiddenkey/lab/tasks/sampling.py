"""Drawing part of a data set with a seed of its own, independent of the training seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence

from hiddenkey.lab.tasks.base import Example, Kind

Parts = tuple[tuple[Example, ...], tuple[Example, ...]]
"""Two parts of a data set."""


def draw(
    examples: Sequence[Example], size: int | None, seed: int, kind: Kind
) -> tuple[Example, ...]:
    """Return ``size`` examples in their original order; ``None`` returns all.

    Classes keep their shares, up to rounding. The same seed gives the same examples.
    """
    if size is None or size >= len(examples):
        return tuple(examples)
    return split(examples, size, seed, kind)[0]


def split(examples: Sequence[Example], size: int, seed: int, kind: Kind) -> Parts:
    """Return ``size`` examples and the others, both in their original order.

    Classes keep their shares, up to rounding. The same seed gives the same examples.
    """
    generator = random.Random(seed)
    if kind != "classification":
        chosen = set(generator.sample(range(len(examples)), size))
    else:
        chosen = set(_stratified([int(example.label) for example in examples], size, generator))
    return _parted(examples, chosen)


def split_apart(examples: Sequence[Example], size: int, seed: int, kind: Kind) -> tuple[Parts, int]:
    """Return the two parts of :func:`split`, with equal texts on one side only.

    Texts are equal that differ in upper case and spaces alone. Where some are, the first part may
    be smaller than ``size`` by a few examples.

    Returns:
        The parts, and how many examples have a text that an earlier one has.
    """
    by_text: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, example in enumerate(examples):
        by_text[text_of(example)].append(index)
    doubled = len(examples) - len(by_text)
    if not doubled:
        return split(examples, size, seed, kind), 0
    strata: dict[int, list[list[int]]] = defaultdict(list)
    for group in by_text.values():
        label = examples[group[0]].label
        strata[int(label) if kind == "classification" else 0].append(group)
    return _parted(examples, _whole_groups(strata, size, random.Random(seed))), doubled


def text_of(example: Example) -> tuple[str, ...]:
    """An example's texts, the same for those that differ in upper case and spaces alone."""
    return tuple(" ".join(text.split()).casefold() for text in example.texts)


def _parted(examples: Sequence[Example], chosen: Collection[int]) -> Parts:
    return (
        tuple(example for index, example in enumerate(examples) if index in chosen),
        tuple(example for index, example in enumerate(examples) if index not in chosen),
    )


def _whole_groups(
    strata: Mapping[int, Sequence[Sequence[int]]], size: int, generator: random.Random
) -> set[int]:
    """Groups of each class in random order, those for which its share has room."""
    room = _quotas({label: sum(map(len, groups)) for label, groups in strata.items()}, size)
    chosen: set[int] = set()
    for label in sorted(strata):
        for group in generator.sample(strata[label], len(strata[label])):
            if len(group) <= room[label]:
                chosen.update(group)
                room[label] -= len(group)
    return chosen


def _stratified(labels: Sequence[int], size: int, generator: random.Random) -> list[int]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    quotas = _quotas({label: len(found) for label, found in members.items()}, size)
    return [
        index
        for label in sorted(members)
        for index in generator.sample(members[label], quotas[label])
    ]


def _quotas(counts: Mapping[int, int], size: int) -> dict[int, int]:
    """How many of each class make ``size`` examples with the shares of the classes."""
    whole = sum(counts.values())
    shares = {label: size * count / whole for label, count in counts.items()}
    quotas = {label: int(share) for label, share in shares.items()}
    # largest remainder: the places that rounding down left over go to the classes that lost most
    by_loss = sorted(shares, key=lambda label: (quotas[label] - shares[label], label))
    for label in by_loss[: size - sum(quotas.values())]:
        quotas[label] += 1
    return quotas
