"""A stranger's model: a small encoder written from nothing, and broken versions of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models import HEADS, LABELS, PAD, VOCABULARY, WIDTH, seeded


class OwnConfig(PreTrainedConfig):
    model_type = "own"
    vocab_size: int = VOCABULARY
    hidden_size: int = WIDTH
    num_attention_heads: int = HEADS
    num_hidden_layers: int = 2
    num_labels: int = LABELS
    initializer_range: float = 0.2


def eager_attention_forward(module, query, key, value, attention_mask, scaling, **kwargs):
    logits = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        logits = logits + attention_mask
    return (logits.softmax(-1) @ value).transpose(1, 2).contiguous(), None


class OwnAttention(nn.Module):
    is_causal = False

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.query_key_value = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, states, attention_mask):
        parts = self.query_key_value(states).chunk(3, -1)
        heads = [part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in parts]
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        scaling = (WIDTH // HEADS) ** -0.5
        mixed, _ = attention(self, *heads, attention_mask, scaling=scaling, dropout=0.0)
        return self.out(mixed.flatten(2))


class OwnLayer(GradientCheckpointingLayer):
    activation = staticmethod(F.gelu)

    def __init__(self, config):
        super().__init__()
        self.attention = OwnAttention(config)
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, states, attention_mask):
        states = self.norm(states + self.attention(states, attention_mask))
        return states + self.feed_forward(states)

    def feed_forward(self, states):
        return self.down(self.activation(self.up(states)))


class OwnModel(PreTrainedModel):
    """Good: it does nothing unusual."""

    config_class = OwnConfig
    layer_class = OwnLayer
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, WIDTH)
        self.layers = nn.ModuleList(self.layer_class(config) for _ in range(2))
        self.classifier = nn.Linear(WIDTH, config.num_labels)
        self.loss_type = "ForSequenceClassification"
        self.post_init()

    def forward(self, input_ids, attention_mask=None, labels=None):
        states = self.embeddings(input_ids)
        mask = create_bidirectional_mask(self.config, states, attention_mask)
        for layer in self.layers:
            states = layer(states, mask)
        states = self.after_layers(states)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        logits = self.classifier(self.pooled(states, attention_mask.unsqueeze(-1)))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def after_layers(self, states: Tensor) -> Tensor:
        return states

    def pooled(self, states: Tensor, visible: Tensor) -> Tensor:
        return (states * visible).sum(1) / visible.sum(1)


class AttentionPooling(OwnModel):
    """Broken: it weighs its tokens by a softmax behind the layers, which no site serves."""

    def pooled(self, states, visible):
        scores = states.sum(-1, keepdim=True).masked_fill(visible == 0, -1e9)
        weights = scores.transpose(1, 2).softmax(-1)  # [batch, 1, tokens]
        return (weights @ states).squeeze(1)


class IdleLayer(OwnLayer):
    def feed_forward(self, states):
        return super().feed_forward(states) * 0 + states


class IdleModel(OwnModel):
    """Odd, but right: no output depends on its feed-forward blocks."""

    layer_class = IdleLayer


class DeafLayer(OwnLayer):
    def feed_forward(self, states):
        inner = F.gelu(self.up(states))
        self.down(inner)
        return F.linear(inner, self.down.weight, self.down.bias)


class DeafModel(OwnModel):
    """Broken: it calls its second dense layers, and then computes them once more by hand."""

    layer_class = DeafLayer


class NoisyModel(OwnModel):
    """Broken: it has a dropout whose rate nobody can switch off."""

    def after_layers(self, states):
        return F.dropout(states, 0.1, self.training)


class WatchfulModel(OwnModel):
    """Broken: it computes something else, in evaluation too, where a configuration is attached."""

    def after_layers(self, states):
        changed = any(part._forward_pre_hooks or part._forward_hooks for part in self.modules())
        return states + 1e-3 if changed else states


def own_model(kind: type[OwnModel] = OwnModel) -> OwnModel:
    with seeded(0):
        return kind._from_config(OwnConfig(pad_token_id=PAD), attn_implementation="sdpa").train()
