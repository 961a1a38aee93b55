"""How the gap between training and inference is closed: the third axis of arXiv 2403.00812.

:mod:`rescale` acts inside the forward pass; :mod:`kl`, :mod:`js` and :mod:`mixture` are losses
between two passes. With a target from the past (:mod:`temporal`) or the uniform distribution
(:mod:`smoothing`) a loss needs one pass.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from hiddenkey.framework.compensation import js, kl, mixture

RESCALES = ("none", "inverse", "normalised", "normalised-with-gradient")

# (logits of the trained pass, logits of the second forward pass) -> one value per row
ConsistencyLoss = Callable[[Tensor, Tensor], Tensor]

CONSISTENCIES: Mapping[str, ConsistencyLoss] = {
    "kl": kl.bidirectional_kl,
    "js": js.js_consistency,
    "mixture": mixture.mixture_consistency,
}

AGAINST_INFERENCE = ("js", "mixture")
"""Losses whose second forward pass is without noise."""

TARGETS = ("pass", "history")
"""What a divergence compares with: a second forward pass, or the example's earlier prediction."""

SMOOTHING = "label-smoothing"

KINDS = (*CONSISTENCIES, SMOOTHING)
"""All losses that may be added to the task loss."""
