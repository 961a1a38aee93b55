"""Cross-entropy and consistency loss over a language-model head, without its logits in full.

:mod:`reference` is the specification; :mod:`chunked` computes the same a chunk of rows at a time.
"""

from hiddenkey.vocabulary.chunked import chunked_loss
from hiddenkey.vocabulary.head import LinearHead, ModuleHead
from hiddenkey.vocabulary.post import PostHead, Scaled, SoftCapped
from hiddenkey.vocabulary.reference import reference_loss
from hiddenkey.vocabulary.sums import Factors, Sums

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
