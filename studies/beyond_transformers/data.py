"""The examples of both networks: headlines as words, digits as pixels."""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from beyond_transformers.options import Network
from hiddenkey.errors import ConfigError
from hiddenkey.lab.tasks import TASKS, Example, Source
from hiddenkey.lab.tasks.sampling import draw, split

PADDING, UNKNOWN = 0, 1
LONGEST = 24
"""Words of a headline that are read."""

VALIDATION = 500
"""Examples that judge the settings; at most what the training pool leaves."""

_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Examples:
    """Inputs by name and classes ``[examples]``."""

    inputs: Mapping[str, Tensor]
    classes: Tensor

    def __getitem__(self, rows: Tensor) -> Examples:
        inputs = {name: values[rows] for name, values in self.inputs.items()}
        return Examples(inputs, self.classes[rows])


@dataclass(frozen=True)
class Data:
    """What a network learns from and is judged on; no example is in two parts.

    Attributes:
        train: the training examples.
        validation: those by which settings are chosen.
        test: those that the chosen settings are judged on.
        words: size of the vocabulary; 0 for images.
        classes: number of classes.
    """

    train: Examples
    validation: Examples
    test: Examples
    words: int
    classes: int


def load(network: Network, train_size: int) -> Data:
    """Read the data of a network.

    Raises:
        ConfigError: if there are fewer training examples than wanted, or scikit-learn is missing.
    """
    return _headlines(train_size) if network == "recurrent" else _digits(train_size)


def vocabulary(texts: Sequence[str]) -> dict[str, int]:
    """Number the words of texts, in lower case, in the order in which they come first."""
    words = dict.fromkeys(word for text in texts for word in _words(text))
    return {word: index for index, word in enumerate(words, start=UNKNOWN + 1)}


def encode(texts: Sequence[str], known: Mapping[str, int], classes: Sequence[int]) -> Examples:
    """Return ids and mask, ``[texts, LONGEST]``, padded on the right."""
    ids = torch.full((len(texts), LONGEST), PADDING)
    for row, text in enumerate(texts):
        found = [known.get(word, UNKNOWN) for word in _words(text)][:LONGEST] or [UNKNOWN]
        ids[row, : len(found)] = torch.tensor(found)
    inputs = {"input_ids": ids, "attention_mask": (ids != PADDING).long()}
    return Examples(inputs, torch.tensor(classes))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _headlines(train_size: int) -> Data:
    splits = TASKS["headlines"].load(Source())
    _refuse_too_many(train_size, len(splits.train))
    train, rest = split(splits.train, train_size, 0, "classification")
    validation = draw(rest, VALIDATION, 0, "classification")
    known = vocabulary([example.texts[0] for example in train])

    def encoded(examples: Sequence[Example]) -> Examples:
        texts = [example.texts[0] for example in examples]
        return encode(texts, known, [int(example.label) for example in examples])

    return Data(
        train=encoded(train),
        validation=encoded(validation),
        test=encoded(splits.evaluation),
        words=len(known) + 2,
        classes=len(splits.label_names),
    )


def _digits(train_size: int) -> Data:
    """1,000 images of a fixed order are the pool, of which some are trained on; 797 are the test.

    scikit-learn has no type hints and is an optional part of the installation.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError:
        raise ConfigError(
            "the convolutional network learns scikit-learn's digits, got no scikit-learn; install"
            " it (pip install scikit-learn) or leave 'convolutional' out of networks"
        ) from None
    _refuse_too_many(train_size, 1000)
    pixels, classes = datasets.load_digits(return_X_y=True)
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    shuffled = Examples({"pixels": images}, torch.tensor(classes))[order]
    ends = (0, train_size, min(1000, train_size + VALIDATION))
    train, validation = (
        shuffled[torch.arange(start, end)] for start, end in itertools.pairwise(ends)
    )
    return Data(train, validation, shuffled[torch.arange(1000, len(classes))], 0, 10)


def _refuse_too_many(train_size: int, pool: int) -> None:
    if train_size >= pool:
        raise ConfigError(
            f"train_size must leave examples to choose by, got {train_size} of {pool}; give a"
            " smaller number"
        )
