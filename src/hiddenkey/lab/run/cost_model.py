"""What a LoRA training step costs in memory and time, by arithmetic: nothing is run.

The formulas are those of a decoder with gated feed-forward blocks (LLaMA, Mistral, Qwen2) whose
frozen weights are kept in one number format, LoRA's in float32, and whose attention is fused.
Activations are counted as PyTorch saves them: a frozen linear layer keeps nothing, one with LoRA
its input in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

Sharding = Literal["none", "fsdp2", "zero3"]

_FLOAT32: Final = 4
_TRAINED: Final = 16  # weight, gradient and Adam's two moments, in float32
# one logit while a model's own loss is differentiated: log-softmax, its gradient, its input's
_LOGIT: Final = 12
_COMPARED_LOGIT: Final = 34  # one logit of each pass where both are held and compared in full
_CHUNK_ELEMENTS: Final = 2**24  # of hiddenkey.chunked_loss.chunked, for two branches in float32
_LIVE_PARAMETERS: Final = 1e9  # DeepSpeed's stage3_max_live_parameters


@dataclass(frozen=True)
class Sizes:
    """A decoder's sizes.

    Attributes:
        layers: number of them.
        hidden: width of the hidden states.
        heads: query heads.
        attention: width of all query heads together.
        key_value: width of all key heads together.
        feed_forward: inner width of the feed-forward block.
        vocabulary: number of logits.
        parameters: of the whole model.
        layer_parameters: of one layer.
        head_parameters: of the language-model head.
        multiplied: parameters that each token is multiplied with; without the embeddings.
        lora: LoRA's parameters.
        lora_layers: linear layers with LoRA in one layer.
        rank: of LoRA.
    """

    layers: int
    hidden: int
    heads: int
    attention: int
    key_value: int
    feed_forward: int
    vocabulary: int
    parameters: int
    layer_parameters: int
    head_parameters: int
    multiplied: int
    lora: int
    lora_layers: int
    rank: int


@dataclass(frozen=True)
class Setting:
    """How a step is run.

    Attributes:
        sequences: in a forward pass of one device.
        tokens: of each sequence, all of them labelled.
        devices: data-parallel ones.
        sharding: how the frozen weights are spread over them.
        checkpointing: recompute each layer in the backward pass.
        width: bytes of a frozen weight and of an activation.
        quantised: bytes of a quantised weight; None: those have the width too.
    """

    sequences: int
    tokens: int
    devices: int
    sharding: Sharding
    checkpointing: bool
    width: int
    quantised: float | None = None

    @property
    def batch_tokens(self) -> int:
        """Tokens of a forward pass of one device."""
        return self.sequences * self.tokens

    @property
    def shards(self) -> int:
        """Devices that share one copy of the weights."""
        return 1 if self.sharding == "none" else self.devices


@dataclass(frozen=True)
class Method:
    """What a method adds to a step.

    Attributes:
        drops: DropKey by column and hidden drops.
        compares: the consistency loss.
        share: of the batch that takes part in it.
        every: steps per consistency loss.
    """

    drops: bool = False
    compares: bool = False
    share: float = 1.0
    every: int = 1

    def mean(self, seconds: Callable[[Method], float]) -> float:
        """Return the mean over steps with the loss and without, from the seconds of one."""
        without = seconds(replace(self, compares=False)) if self.every > 1 else 0.0
        return (seconds(self) + (self.every - 1) * without) / self.every


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step.

    Attributes:
        weights: frozen weights, those gathered for a layer included.
        trained: LoRA's weights, their gradients and the optimiser's moments.
        activations: what the layers keep for the backward pass.
        loss: logits, or the chunks of them, and their gradients.
    """

    weights: float
    trained: float
    activations: float
    loss: float

    @property
    def total(self) -> float:
        """Their sum."""
        return self.weights + self.trained + self.activations + self.loss


def memory(sizes: Sizes, setting: Setting, method: Method) -> Memory:
    """Return what one device holds; the second forward pass runs first and is gone by then."""
    tokens = setting.batch_tokens
    return Memory(
        weights=_weight_bytes(sizes, setting),
        trained=_TRAINED * sizes.lora / setting.shards,
        activations=tokens * activation_bytes(sizes, setting, method),
        loss=_loss_bytes(sizes, setting, method),
    )


def activation_bytes(sizes: Sizes, setting: Setting, method: Method) -> float:
    """Return the bytes that all layers keep of one token for the backward pass."""
    layer = layer_bytes(sizes, setting.width, method)
    if setting.checkpointing:
        return sizes.layers * sizes.hidden * setting.width + layer
    return sizes.layers * layer


def layer_bytes(sizes: Sizes, width: int, method: Method) -> float:
    """Return the bytes that one layer keeps of one token, as PyTorch saves them.

    Args:
        sizes: of the model.
        width: bytes of an activation.
        method: its masks are kept too.
    """
    norms = 2 * _FLOAT32 * (sizes.hidden + 1)
    inputs = 1 if width == _FLOAT32 else sizes.lora_layers  # cast for each of them, or shared
    lora = _FLOAT32 * (inputs * sizes.hidden + sizes.lora_layers * sizes.rank)
    attention = 2 * width * (sizes.attention + sizes.key_value) + _FLOAT32 * sizes.heads
    feed_forward = 3 * width * sizes.feed_forward
    masks = width * sizes.heads + sizes.hidden if method.drops else 0
    return norms + lora + attention + feed_forward + masks


def step_flops(sizes: Sizes, setting: Setting, method: Method) -> float:
    """Return one device's floating-point operations in a step of one forward pass, LoRA's aside.

    With F of the forward pass and attention's share a of it, a LoRA step takes F (2 + 1.5 a): no
    gradient of the frozen weights, and 2.5 times the forward pass for fused attention.
    """
    forward, share = forward_flops(sizes, setting.tokens)
    passes = 2 + 1.5 * share + method.compares * method.share + setting.checkpointing
    return setting.batch_tokens * forward * passes


def forward_flops(sizes: Sizes, tokens: int) -> tuple[float, float]:
    """Return a token's operations in a forward pass, and attention's share of them.

    Args:
        sizes: of the model.
        tokens: of a sequence; causal attention sees half of them on average.
    """
    linear = 2 * sizes.multiplied
    attention = sizes.layers * 2 * tokens * sizes.attention
    return linear + attention, attention / (linear + attention)


def gathered_bytes(sizes: Sizes, setting: Setting, method: Method) -> float:
    """Return the bytes of weights that one device receives in a step.

    They are gathered for the forward pass, for the backward pass, and for the second forward pass,
    however small a share of the batch takes part in it.
    """
    if setting.shards == 1:
        return 0.0
    received = sizes.parameters * setting.width * (1 - 1 / setting.shards)
    return received * (2 + method.compares)


def _weight_bytes(sizes: Sizes, setting: Setting) -> float:
    own = sizes.parameters / setting.shards
    if setting.quantised is not None:  # the others are then in float32
        linear = sizes.multiplied - sizes.head_parameters
        return linear * setting.quantised + (sizes.parameters - linear) * _FLOAT32
    if setting.shards == 1:
        return own * setting.width
    if setting.sharding == "zero3":
        gathered = min(_LIVE_PARAMETERS, sizes.parameters)
    else:  # this layer, the next one, and the head, which stays from forward to backward
        gathered = 2 * sizes.layer_parameters + sizes.head_parameters
    return (own + gathered) * setting.width


def _loss_bytes(sizes: Sizes, setting: Setting, method: Method) -> float:
    tokens = setting.batch_tokens
    if not method.compares:
        return _LOGIT * tokens * sizes.vocabulary
    if setting.sharding == "zero3":  # sharded heads keep their logits in full
        return _COMPARED_LOGIT * tokens * sizes.vocabulary
    # both passes' labelled rows, those of the trained pass once more, and their gradient
    rows = 4 * tokens * sizes.hidden * setting.width
    return 2 * _FLOAT32 * _CHUNK_ELEMENTS + rows
