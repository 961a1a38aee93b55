"""Log-probabilities of a pass, of which two can be subtracted."""

import torch
from torch import Tensor


def log_probabilities(logits: Tensor) -> Tensor:
    """Return log softmax(logits), in float32 or wider.

    Some models mask classes that an example does not have by −∞. They get the least number instead,
    and with it the probability 0: two passes that both lack a class do not differ there, while
    −∞ − (−∞) is no number.

    Args:
        logits: ``[rows, classes]``.
    """
    wide = torch.promote_types(logits.dtype, torch.float32)
    return torch.log_softmax(logits.clamp_min(torch.finfo(logits.dtype).min), -1, dtype=wide)
