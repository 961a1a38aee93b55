"""Drawing part of a data set with a seed of its own, independent of the training seed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from hiddenkey.lab.tasks.base import Example, Kind


def draw(
    examples: Sequence[Example], size: int | None, seed: int, kind: Kind
) -> tuple[Example, ...]:
    """Return ``size`` examples in their original order; ``None`` returns all.

    Classes keep their shares, up to rounding. The same seed gives the same examples.
    """
    if size is None or size >= len(examples):
        return tuple(examples)
    return split(examples, size, seed, kind)[0]


def split(
    examples: Sequence[Example], size: int, seed: int, kind: Kind
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return ``size`` examples and the others, both in their original order.

    Classes keep their shares, up to rounding. The same seed gives the same examples.
    """
    generator = random.Random(seed)
    if kind != "classification":
        chosen = set(generator.sample(range(len(examples)), size))
    else:
        chosen = set(_stratified([int(example.label) for example in examples], size, generator))
    return (
        tuple(example for index, example in enumerate(examples) if index in chosen),
        tuple(example for index, example in enumerate(examples) if index not in chosen),
    )


def _stratified(labels: Sequence[int], size: int, generator: random.Random) -> list[int]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        members[label].append(index)
    shares = {label: size * len(found) / len(labels) for label, found in members.items()}
    quotas = {label: int(share) for label, share in shares.items()}
    # largest remainder: the places that rounding down left over go to the classes that lost most
    by_loss = sorted(shares, key=lambda label: (quotas[label] - shares[label], label))
    for label in by_loss[: size - sum(quotas.values())]:
        quotas[label] += 1
    return [
        index
        for label in sorted(members)
        for index in generator.sample(members[label], quotas[label])
    ]
