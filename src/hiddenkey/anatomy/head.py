"""Finds the module that turns the last representation into predictions."""

from __future__ import annotations

from torch import nn

from hiddenkey.anatomy.part import Part
from hiddenkey.errors import AttachError


def find_head(transformer: nn.Module) -> Part:
    """Find the module that turns the last representation into predictions.

    Raises:
        AttachError: if it is under no known name.
    """
    for name in ("classifier", "score", "lm_head", "qa_outputs", "embed_out"):
        module = getattr(transformer, name, None)
        if isinstance(module, nn.Module):
            return Part(None, name, module)
    children = ", ".join(name for name, _ in transformer.named_children())
    raise AttachError(
        f"no classifier or language-model head found in {type(transformer).__name__} (it has"
        f" {children}); load it with a head, for instance AutoModelForSequenceClassification"
    )
