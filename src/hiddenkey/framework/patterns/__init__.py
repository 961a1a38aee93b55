"""Which units are dropped together: the second axis of arXiv 2403.00812, one file per pattern.

Every pattern is a function ``keep_mask(shape, rate, visible)``. ``shape`` is
``(*groups, tokens, entries)``: for a hidden sequence ``(batch, tokens, features)``, for attention
``(batch, heads, keys, queries)``, so that a key is to attention what a token is to a sequence. The
patterns differ in which of the last two axes share one draw. The result is a boolean mask (True =
keep) that broadcasts to ``shape``; entries that are not ``visible`` are kept, since nothing of them
reaches the output. All draws come from PyTorch's global generator.
"""

from collections.abc import Callable, MutableMapping

from torch import Tensor

from hiddenkey.framework.patterns import adapter, block, column, element, feature, span

KeepMask = Callable[[tuple[int, ...], float, Tensor], Tensor]

PATTERNS: MutableMapping[str, KeepMask] = {
    "element": element.keep_mask,
    "column": column.keep_mask,
    "span": span.keep_mask,
    "feature": feature.keep_mask,
    # patterns of an adapter's update alone; hiddenkey.sequence.update says where each acts
    "rank": feature.keep_mask,
    "adapter": adapter.keep_mask,
    "two-sided": feature.keep_mask,
}

ALIKE_IN_PACKED_ROWS = {"element", "column", "adapter"}
"""Patterns whose draw is the same whether a row holds one sequence or several.

The units of all others, of yours too, belong to one sequence, and are drawn for each of a packed
row as if it were alone. Add yours if no unit of it spans tokens: it is drawn faster then.
"""

ON_MAPS: MutableMapping[str, KeepMask] = {"span": block.keep_mask}
"""What a pattern is on a feature map, with the shape ``(*groups, height, width, entries)``.

Other patterns take the places of a map as the tokens of a sequence.
"""
