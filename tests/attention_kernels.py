"""Kernels that need a GPU, by stand-ins that compute exactly, and tiny models that call them."""

from itertools import pairwise

import torch
from transformers import (
    AutoModelForCausalLM,
    DataCollatorWithFlattening,
    Gemma2Config,
    GptOssConfig,
    MistralConfig,
    masking_utils,
)
from transformers import modeling_flash_attention_utils as utils
from transformers.integrations import flex_attention as integration

import hiddenkey
from hiddenkey.attention.site import AttentionSite
from models import gradients, plain_model, seeded

SEQUENCES = [[5, 6, 7, 8, 9], [10, 14], [11, 12, 13]]
METHODS = ("dropkey", "dropkey-span", "dropattention")


def attention(query, key, value, scale, causal, window, softcap, sinks=None):
    """Attention of one sequence, ``[tokens, heads, width]``, aligned at the last query."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = torch.einsum("qhd,khd->hqk", query.double(), key.double()) * scale
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    place = torch.arange(query.shape[0]) + key.shape[0] - query.shape[0]
    distance = torch.arange(key.shape[0]) - place[:, None]
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        hidden |= distance > 0
    if window[0] >= 0:
        hidden |= distance < -window[0]
    logits = logits.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        column = sinks.double()[:, None, None].expand(-1, logits.shape[1], -1)
        logits = torch.cat([logits, column], -1)
    weights = logits.softmax(-1)[..., : key.shape[0]]
    return torch.einsum("hqk,khd->qhd", weights, value.double()).to(query.dtype)


class Kernels:
    """FlashAttention 2's two functions; ``calls`` names what was called, at ``widths`` of heads."""

    def __init__(self):
        self.calls = []
        self.widths = set()

    def check(self, query, key, value):
        assert query.shape[-1] == key.shape[-1] == value.shape[-1]
        assert query.shape[-1] % 8 == 0
        assert query.shape[-1] <= 256
        self.widths.add(query.shape[-1])

    def fixed(
        self, q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1),
        softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.check(q, k, v)
        self.calls.append("fixed")
        assert dropout_p == 0
        rows = zip(q, k, v, strict=True)
        return torch.stack(
            [attention(*row, softmax_scale, causal, window_size, softcap) for row in rows]
        )

    def variable(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0,
        softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, deterministic=False,
    ):  # fmt: skip
        self.check(q, k, v)
        self.calls.append("variable")
        assert dropout_p == 0
        ends = [each.tolist() for each in (cu_seqlens_q, cu_seqlens_k)]
        assert max_seqlen_q >= max(b - a for a, b in zip(ends[0], ends[0][1:], strict=False))
        found = []
        for a, b, c, d in zip(ends[0], ends[0][1:], ends[1], ends[1][1:], strict=False):
            own = (q[a:b], k[c:d], v[c:d])
            found.append(attention(*own, softmax_scale, causal, window_size, softcap))
        return torch.cat(found)


class KernelsWithSinks(Kernels):
    """The same with a sink for each head, as repositories of kernels have them."""

    def fixed(self, q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1), s_aux=None):
        self.check(q, k, v)
        self.calls.append("fixed")
        rows = zip(q, k, v, strict=True)
        return torch.stack(
            [attention(*row, softmax_scale, causal, window_size, 0.0, s_aux) for row in rows]
        )

    def variable(
        self, q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k,
        softmax_scale=None, causal=False, window_size=(-1, -1), s_aux=None,
    ):  # fmt: skip
        self.check(q, k, v)
        self.calls.append("variable")
        ends = cu_seqlens_q.tolist()
        assert ends == cu_seqlens_k.tolist()
        found = []
        for a, b in pairwise(ends):
            own = (q[a:b], k[a:b], v[a:b])
            found.append(attention(*own, softmax_scale, causal, window_size, 0.0, s_aux))
        return torch.cat(found)


def use_flash(monkeypatch, with_sinks=False):
    """Let transformers find the stand-in where it looks for the package; return it."""
    kernels = KernelsWithSinks() if with_sinks else Kernels()
    found = (kernels.fixed, kernels.variable, None, utils._pad_input, utils._unpad_input)
    names = ("_flash_fn", "_flash_varlen_fn", "_flash_with_kvcache_fn", "_pad_fn", "_unpad_fn")
    for name, function in zip(names, found, strict=True):
        monkeypatch.setattr(utils, name, function)
    process = utils._lazy_define_process_function(kernels.variable)
    monkeypatch.setattr(utils, "_process_flash_kwargs_fn", process)
    monkeypatch.setattr(utils, "_process_with_kvcache_kwargs_fn", dict)
    monkeypatch.setattr(utils, "_loaded_implementation", "flash_attention_2")
    return kernels


def use_flex(monkeypatch):
    """Let transformers use FlexAttention's eager form, which has gradients on a CPU; list calls.

    It is the specification of the compiled one. The check that refuses gradients there, and
    compiling, are left out.
    """
    from torch.nn.attention import flex_attention as flex

    calls = []

    def eager(query, key, value, training=False, **how):
        calls.append(tuple(each.shape for each in (query, key, value)))
        return flex.flex_attention(query, key, value, **how)

    def mask(*arguments, _compile, **more):
        return flex.create_block_mask(*arguments, **more)

    monkeypatch.setattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(integration, "compile_friendly_flex_attention", eager)
    monkeypatch.setattr(masking_utils, "create_block_mask", mask)
    return calls


def with_kernel(model, name="flash_attention_2"):
    model.config._attn_implementation_internal = name
    return model


def model_of(kind, implementation, **more):
    """The same tiny model, with an implementation of attention."""
    more = {**more, **({} if kind == "bert" else {"use_cache": False})}
    if kind in ("bert", "llama"):
        model = plain_model(kind, "causal" if kind == "llama" else "classification", **more)
    elif kind == "gpt_oss":
        model = _with_large_sinks(more)
    else:
        sizes = {
            "vocab_size": 60, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
            "initializer_range": 0.2, "sliding_window": 3, **more,
        }  # fmt: skip
        config = (MistralConfig if kind == "mistral" else Gemma2Config)(**sizes)
        with seeded(0):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    names = {"flash": "flash_attention_2", "flex": "flex_attention"}
    return with_kernel(model, names.get(implementation, implementation))


def _with_large_sinks(more):
    sizes = {
        "vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
        "num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": 3, **more,
    }  # fmt: skip
    with seeded(0):
        config = GptOssConfig(**sizes)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=1.0 if name.endswith("sinks") else 0.2)
    return model


def batch(side):
    """Three sequences of several lengths, padded on one side or cut to one length."""
    if side == "none":
        tokens = torch.tensor([[5, 6, 7], [10, 14, 3], [11, 12, 13]])
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    width = max(map(len, SEQUENCES))
    rows = [[0] * (width - len(s)) + s if side == "left" else s + [0] * (width - len(s))
            for s in SEQUENCES]  # fmt: skip
    tokens = torch.tensor(rows)
    return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}


def passed(model, inputs, method, seed=0, rate=0.4):
    """Logits at the tokens, and the gradients, of one pass under noise."""
    attachment = hiddenkey.attach(model, hiddenkey.method(method, rate=rate))
    with seeded(seed):
        logits = model(**inputs).logits
    seen = logits[inputs["attention_mask"].bool()] if logits.dim() == 3 else logits
    seen.square().sum().backward()
    shares = attachment.shares()
    attachment.detach()
    return seen.detach(), gradients(model), shares


def packed(with_lengths):
    collate = DataCollatorWithFlattening(return_flash_attn_kwargs=with_lengths)
    inputs = collate([{"input_ids": each, "labels": each} for each in SEQUENCES])
    return {name: value for name, value in inputs.items() if name != "labels"}


counted = AttentionSite._draw_keys


def given_masks(monkeypatch, keep):
    """Let every draw be this one, ``[keys]`` for all heads; of packed sequences the row's."""

    def draw(self, drop, keys, heads, protect_first):
        counted(self, drop, keys, heads, protect_first)
        return keep[: keys.visible.shape[1]].expand(keys.visible.shape[0], heads, -1)

    monkeypatch.setattr(AttentionSite, "_draw_keys", draw)
