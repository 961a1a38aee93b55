"""Attention that has a softmax, but none over keys that all queries share."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

_REASONS: Mapping[str, str] = {
    "LSHSelfAttention": "attends within hash buckets, which differ from query to query",
    "LocalSelfAttention": "computes its weights without a call of softmax that could be seen",
    "NystromformerSelfAttention": "approximates attention by landmarks, which stand for many keys",
    "XCA": "weighs features against each other, not tokens",
    "MobileViTV2LinearSelfAttention": "weighs each token by itself, without queries",
}

# Softmaxes over more than four axes whose last one is a sequence of keys all the same: of a window,
# or of one of several streams.
_SHARED_KEYS = ("HieraMaskUnitAttention", "ProphetNetNgramSelfAttention")

# Attention over something else than tokens, such as the outputs of earlier layers.
_OTHER_KEYS = ("Inkling2BlockAttentionResidual", "DeepseekV4HyperConnection")

# No attention over shared keys, in layers that may have such attention too, by the end of the
# class's name: the many models that came of Deformable DETR call theirs alike.
_OWN_KEYS: Mapping[str, str] = {
    "MultiscaleDeformableAttention": "samples places of its own for each query",
    "MSDeformAttn": "samples places of its own for each query",
    "PatchTSMixerGatedAttention": "is a gate, which weighs values and has no queries",
}


def has_tokens_as_keys(module: nn.Module) -> bool:
    """Whether what a module attends to is a sequence of tokens or patches."""
    return not any(kind.__name__ in _OTHER_KEYS for kind in type(module).__mro__)


def has_shared_keys(module: nn.Module) -> bool:
    """Whether the queries of a module share their keys however many axes its logits have."""
    return any(kind.__name__ in _SHARED_KEYS for kind in type(module).__mro__)


def own_keys(module: nn.Module) -> str | None:
    """Say why a module has no keys that its queries share, where others of its model may have."""
    for kind in type(module).__mro__:
        for end, reason in _OWN_KEYS.items():
            if kind.__name__.endswith(end):
                return reason
    return None


def refusal(module: nn.Module) -> str | None:
    """Say why no key can be dropped from a module's attention; ``None`` if it can."""
    for kind in type(module).__mro__:
        if kind.__name__ in _REASONS:
            return _REASONS[kind.__name__]
    return None
