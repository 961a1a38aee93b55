"""Where noise enters: the first axis of arXiv 2403.00812, one file per place.

A position says which patterns mean something there, which rescaling it takes (the first one is its
default), how its modules are found in a transformer, and where in them it acts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from torch import nn

from hiddenkey.anatomy import Gap, Part
from hiddenkey.positions import attention, hidden, input, output

if TYPE_CHECKING:
    from hiddenkey.framework.config import DropoutConfig

    Find = Callable[[nn.Module, list[Part], DropoutConfig], Sequence[Part | Gap]]


@dataclass(frozen=True)
class Position:
    """A place in a transformer where units can be dropped.

    Attributes:
        where: the place in words.
        acts: on what comes into the module, on what comes out, or inside its attention function.
        find: (transformer, layers that drop, configuration) -> the modules, and the gaps.
        rescales: rescaling rules that fit, the default first.
        refused: pattern → why it means nothing here.
    """

    where: str
    acts: Literal["before", "after", "inside"]
    find: Find
    rescales: tuple[str, ...]
    refused: Mapping[str, str] = field(default_factory=dict)


_NO_FEATURE = {"feature": "an attention map has keys and queries, but no features"}
_ONE_VECTOR = "what enters the classifier is one vector per prediction, not a sequence"

POSITIONS: MutableMapping[str, Position] = {
    "input": Position(
        where="embedding sequence that enters the first layer",
        acts="before",
        find=input.find,
        rescales=("none", "inverse"),
    ),
    "attention_logits": Position(
        where="attention logits, before softmax",
        acts="inside",
        find=attention.find,
        rescales=("none",),
        refused=_NO_FEATURE,
    ),
    "attention_weights": Position(
        where="attention weights, after softmax",
        acts="inside",
        find=attention.find,
        rescales=("normalised", "normalised-with-gradient", "inverse", "none"),
        refused=_NO_FEATURE,
    ),
    "hidden": Position(
        where="feed-forward hidden representations: output of the second dense layer, before the"
        " residual add",
        acts="after",
        find=hidden.find,
        rescales=("inverse", "none"),
    ),
    "output": Position(
        where="representation that enters the classifier",
        acts="before",
        find=output.find,
        rescales=("inverse", "none"),
        refused=dict.fromkeys(("column", "span", "feature"), _ONE_VECTOR),
    ),
}
