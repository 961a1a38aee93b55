"""Cross-entropy and consistency loss over a language-model head, without its logits in full.

:mod:`reference` is the specification; :mod:`chunked` computes the same a chunk of rows at a time.
"""

from hiddenkey.chunked_loss.chunked import chunked_loss
from hiddenkey.chunked_loss.head import LinearHead, ModuleHead
from hiddenkey.chunked_loss.post import PostHead, Scaled, SoftCapped
from hiddenkey.chunked_loss.reference import reference_loss
from hiddenkey.chunked_loss.sums import Factors, Sums

__all__ = [
    "Factors",
    "LinearHead",
    "ModuleHead",
    "PostHead",
    "Scaled",
    "SoftCapped",
    "Sums",
    "chunked_loss",
    "reference_loss",
]
