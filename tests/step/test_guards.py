"""Code that goes past the modules with noise is refused, at once or in the first pass."""

import types

import pytest
import torch
from torch.nn import functional as F
from transformers.modeling_outputs import CausalLMOutput

import hiddenkey
from hiddenkey import AttachError, Drop, DropoutConfig
from model_tables.build import build
from models import batch, lora_model, plain_model, snapshot, step


def fused_mlp(self, states):
    """As fast kernels do: the weights of down_proj without its call."""
    gated = self.act_fn(self.gate_proj(states)) * self.up_proj(states)
    return F.linear(gated, self.down_proj.weight)


def fast_attention(self, hidden_states, **kwargs):
    return self.o_proj(hidden_states.repeat(1, 1, 1)), None


@pytest.mark.parametrize("instance", [True, False])
def test_a_replaced_feed_forward_block_shows_in_the_first_pass(instance, monkeypatch):
    model = plain_model("llama")
    mlp = model.model.layers[1].mlp
    if instance:
        mlp.forward = types.MethodType(fused_mlp, mlp)
    else:
        monkeypatch.setattr(type(mlp), "forward", fused_mlp)
    hiddenkey.attach(model, "hiddencut-element")
    with pytest.raises(
        AttachError, match=r"^the training pass went past model.layers.\d.mlp.down_proj \(Linear\)"
    ):
        step(model, batch())


def test_replaced_attention_shows_in_the_first_pass():
    model = plain_model("llama")
    attention = model.model.layers[0].self_attn
    attention.forward = types.MethodType(fast_attention, attention)
    hiddenkey.attach(model, "dropkey")
    with pytest.raises(
        AttachError, match=r"past model.layers.0.self_attn \(LlamaAttention\), so its noise"
    ):
        step(model, batch())


def test_a_loss_that_takes_the_heads_weights_shows_in_the_first_pass():
    """As fused linear cross-entropies do: the head is not called, so nothing enters before it."""
    model = plain_model("llama", "causal")

    def forward(self, input_ids=None, attention_mask=None, labels=None, **kwargs):
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = F.linear(states, self.lm_head.weight)
        return CausalLMOutput(loss=F.cross_entropy(logits.flatten(0, 1), labels.flatten()))

    model.forward = types.MethodType(forward, model)
    hiddenkey.attach(model, DropoutConfig((Drop("output", "element", 0.3),)))
    with pytest.raises(AttachError, match=r"past lm_head \(Linear\), so its noise \(output\)"):
        step(model, batch("causal"))


@pytest.mark.parametrize("package", ["unsloth.kernels", "unsloth_zoo.patching"])
def test_libraries_that_are_known_to_replace_forwards_are_refused_at_once(package):
    model = plain_model("llama")
    mlp = model.model.layers[1].mlp
    replaced = types.FunctionType(fused_mlp.__code__, globals(), "apply_lora_mlp")
    replaced.__module__ = package
    mlp.forward = types.MethodType(replaced, mlp)
    before = snapshot(model)
    with pytest.raises(AttachError, match=r"model.layers.1.mlp \(LlamaMLP\) was replaced by unslo"):
        hiddenkey.attach(model, "hiddenkey")
    assert snapshot(model) == before


def test_a_scripted_module_is_no_replaced_one():
    model = plain_model("bert")
    dense = model.bert.encoder.layer[0].output.dense
    model.bert.encoder.layer[0].output.dense = torch.jit.script(dense)
    attachment = hiddenkey.attach(model, "dropkey")
    step(model, batch())
    assert all(share > 0 for share in attachment.shares().values())


def test_a_first_pass_without_the_adapters_is_no_fault():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, hiddenkey.method("update-dropout", rate=0.5))
    model.requires_grad_(True)
    with model.disable_adapter():
        model(**batch()).loss.backward()
    model(**batch()).loss.backward()
    assert all(0.2 < share < 0.8 for share in attachment.shares().values())


def test_an_honest_model_is_watched_once_and_not_again():
    model = plain_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    hooks = [len(module._forward_hooks) for module in model.modules()]
    step(model, batch())
    assert sum(len(module._forward_hooks) for module in model.modules()) < sum(hooks)
    model.bert.encoder.layer[0].output.dense.forward = torch.nn.Identity()
    attachment.detach()


def test_cross_attention_without_anything_to_attend_to_is_no_fault():
    model = plain_model("gpt2", "causal", add_cross_attention=True)
    hiddenkey.attach(model, "dropkey")
    step(model, batch("causal"))


def test_a_rate_of_zero_draws_nothing_and_is_no_fault():
    model = plain_model("bert")
    hiddenkey.attach(model, hiddenkey.method("hiddenkey-minus", rate=0.0))
    step(model, batch())


def test_an_evaluation_pass_does_not_end_the_watch():
    model = plain_model("llama")
    mlp = model.model.layers[1].mlp
    hiddenkey.attach(model, "hiddencut-element")
    with torch.no_grad():
        model.eval()(**batch())
    mlp.forward = types.MethodType(fused_mlp, mlp)
    with pytest.raises(AttachError, match="went past"):
        step(model.train(), batch())


def test_a_model_that_replaces_its_attention_in_a_pass_is_refused_in_that_pass():
    """BigBird takes ordinary attention, for good, when a batch is too short for blocks."""
    tiny = build("big_bird", "classification")
    model = tiny.model.train()
    hiddenkey.attach(model, "dropkey")
    model(**tiny.batch_right)
    short = {
        name: value[:, :5] if value.dim() == 2 else value
        for name, value in tiny.batch_right.items()
    }
    with pytest.raises(AttachError, match=r"attention.self was replaced after attach"):
        model(**short)
