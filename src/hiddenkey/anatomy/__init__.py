"""Finds the parts of a transformer that noise can enter: layers, attention, feed-forward, head.

No part is found by an architecture's name. Layers are lists of modules that hold attention,
attention is known by what its code calls, the feed-forward output by the shape of its layer. Names
serve where code looks like attention and is none: see :mod:`hiddenkey.anatomy.unsuited`.
"""

from hiddenkey.anatomy.attention import (
    AttentionPart,
    calls_softmax,
    find_attention,
    reads_encoder,
)
from hiddenkey.anatomy.feed_forward import find_feed_forward
from hiddenkey.anatomy.layers import find_layers, find_stacks
from hiddenkey.anatomy.model import (
    find_head,
    in_decoder,
    is_encoder_decoder,
    is_multi_label,
    is_regression,
    task_of,
    text_config,
    transformer_of,
)
from hiddenkey.anatomy.part import Gap, Part, walk

__all__ = [
    "AttentionPart",
    "Gap",
    "Part",
    "calls_softmax",
    "find_attention",
    "find_feed_forward",
    "find_head",
    "find_layers",
    "find_stacks",
    "in_decoder",
    "is_encoder_decoder",
    "is_multi_label",
    "is_regression",
    "reads_encoder",
    "task_of",
    "text_config",
    "transformer_of",
    "walk",
]
