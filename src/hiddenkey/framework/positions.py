"""Where noise enters: the first axis of arXiv 2403.00812, as data.

A position says which patterns mean something there, which rescaling it takes (the first one is its
default), and where in its modules it acts. The modules are found by
:mod:`hiddenkey.attachment.finders`, or by the position's own ``find``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from hiddenkey.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.hooks import RemovableHandle

    Find = Callable[[nn.Module, list[Any], Any], Sequence[Any]]
    Install = Callable[[nn.Module, Any], RemovableHandle]

ATTENTION_KINDS = ("self", "cross")
"""What the keys of an attention module are: its own sequence's, or another one's."""


_OF_ADAPTERS = {
    "rank": "ranks are those of an adapter's matrices",
    "adapter": "it drops whole adapters of a layer",
    "two-sided": "it drops what enters an adapter's matrix A and what leaves its matrix B",
}


@dataclass(frozen=True)
class Position:
    """A place in a transformer where units can be dropped.

    Attributes:
        where: the place in words.
        acts: on what comes into the module, on what comes out, or ``inside`` of its computation.
        find: (transformer, layers that drop, configuration) -> the modules
            (:class:`hiddenkey.anatomy.Part`) and the layers without one
            (:class:`hiddenkey.anatomy.Gap`); ``None`` for the positions of this file.
        rescales: rescaling rules that fit, the default first.
        refused: pattern → why it means nothing here; those of an adapter's update by default.
        inside: where it acts inside of a module: ``logits`` or ``weights`` of its attention, the
            ``update`` of an adapter, or a function (module, site) -> handle. The function makes the
            module call ``site.apply`` on states ``[batch, tokens, features]`` of its own;
            ``handle.remove()`` undoes that.

    Raises:
        ConfigError: if ``acts`` and ``inside`` contradict each other.
    """

    where: str
    acts: Literal["before", "after", "inside"]
    find: Find | None = None
    rescales: tuple[str, ...] = ("inverse", "none")
    refused: Mapping[str, str] = field(default_factory=lambda: _OF_ADAPTERS)
    inside: Literal["logits", "weights", "update"] | Install | None = None

    def __post_init__(self) -> None:
        if (self.acts == "inside") != (self.inside is not None):
            raise ConfigError(
                "a position acts inside of a module exactly if `inside` says how, got"
                f" acts={self.acts!r} and inside={self.inside!r}; give 'logits', 'weights',"
                " 'update' or a function (module, site) -> handle, or acts='before' or 'after' and"
                " no `inside`"
            )

    @property
    def attention(self) -> str | None:
        """``logits`` or ``weights`` where the position is inside of attention, else ``None``."""
        return self.inside if self.inside in ("logits", "weights") else None


_NO_FEATURE = {
    "feature": "an attention map has keys and queries, but no features",
    **_OF_ADAPTERS,
}
_ONE_VECTOR = "what enters the classifier is one vector per prediction, not a sequence"

POSITIONS: MutableMapping[str, Position] = {
    "input": Position(
        where="embedding sequence that enters the first layer",
        acts="before",
        rescales=("none", "inverse"),
    ),
    "attention_logits": Position(
        where="attention logits, before softmax",
        acts="inside",
        rescales=("none",),
        refused=_NO_FEATURE,
        inside="logits",
    ),
    "attention_weights": Position(
        where="attention weights, after softmax",
        acts="inside",
        rescales=("normalised", "normalised-with-gradient", "inverse", "none"),
        refused=_NO_FEATURE,
        inside="weights",
    ),
    "hidden": Position(
        where="feed-forward hidden representations: output of the second dense layer, before the"
        " residual add",
        acts="after",
        rescales=("inverse", "none"),
    ),
    "output": Position(
        where="representation that enters the classifier",
        acts="before",
        rescales=("inverse", "none"),
        refused={**dict.fromkeys(("column", "span", "feature"), _ONE_VECTOR), **_OF_ADAPTERS},
    ),
    "update": Position(
        where="update B·A·x that an adapter adds to the output of a frozen layer",
        acts="inside",
        refused={},
        inside="update",
    ),
}
