"""How the gap between training and inference is closed: the third axis of arXiv 2403.00812.

:mod:`rescale` acts inside the forward pass, :mod:`kl` and :mod:`js` are losses between two passes.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from hiddenkey.framework.compensation import js, kl

RESCALES = ("none", "inverse", "normalised", "normalised-with-gradient")

# (logits of the trained pass, logits of the second forward pass) -> one value per row
ConsistencyLoss = Callable[[Tensor, Tensor], Tensor]

CONSISTENCIES: Mapping[str, ConsistencyLoss] = {
    "kl": kl.bidirectional_kl,
    "js": js.js_consistency,
}
