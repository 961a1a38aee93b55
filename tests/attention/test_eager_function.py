"""The eager attention function of a module is found under whatever name its code looks it up."""

import pytest
import torch
from transformers import Llama4VisionConfig, Llama4VisionModel, TimesFmConfig, TimesFmModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb
from transformers.models.llama.modeling_llama import eager_attention_forward as plain_eager
from transformers.models.llama4 import modeling_llama4

import hiddenkey
from hiddenkey import AttachError
from hiddenkey.attention import dispatch
from models import batch, plain_model, run, seeded

pytestmark = pytest.mark.skipif(
    not hasattr(ALL_ATTENTION_FUNCTIONS, "get_interface"), reason="before transformers 5"
)
NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)
INPUTS = batch("causal", "left")


def attend(module, query, key, value, mask, scaling=None, dropout=0.0, **kwargs):
    """A function of one's own under a name that says nothing."""
    return plain_eager(module, query, key, value, mask, scaling, dropout)


def biased(module, query, key, value, mask, scaling=None, **kwargs):
    """One that computes more than attention, so that it has to run itself."""
    logits = query @ key.repeat_interleave(2, 1).mT * scaling + mask
    logits = torch.tanh(logits / 20).masked_fill(mask < 0, torch.finfo(logits.dtype).min)
    weights = logits.softmax(-1)
    return (weights @ value.repeat_interleave(2, 1)).transpose(1, 2), weights


class Written(LlamaAttention):
    """Code of a user's own, as of ``trust_remote_code``, in a module without transformers' name."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, **kwargs):
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        projections = (self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (p(hidden_states).view(shape).transpose(1, 2) for p in projections)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        output, weights = self.compute(query, key, value, attention_mask)
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1)), weights


class Renamed(Written):
    def compute(self, *operands):
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, plain_eager
        )
        return chosen(self, *operands, scaling=self.scaling)


class Unnamed(Written):
    def compute(self, *operands):
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, attend)
        return chosen(self, *operands, scaling=self.scaling)


class Biased(Written):
    def compute(self, *operands):
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, biased)
        return chosen(self, *operands, scaling=self.scaling)


class Hidden(Written):
    def compute(self, *operands):
        functions = {"default": plain_eager}
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, functions["default"]
        )
        return chosen(self, *operands, scaling=self.scaling)


class Lost(Written):
    def compute(self, *operands):
        chosen = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, None)
        return chosen(self, *operands, scaling=self.scaling)


def model_of(kind, attention="eager"):
    model = plain_model("llama", "causal", attention=attention)
    for layer in model.model.layers:
        layer.self_attn.__class__ = kind
    return model


def noisy_logits(model):
    attachment = hiddenkey.attach(model, NOISE)
    return run(model, INPUTS).logits, attachment


@pytest.mark.parametrize("kind", [Renamed, Unnamed, Hidden], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_code_of_ones_own_drops_as_transformers(kind, attention):
    expected, _ = noisy_logits(plain_model("llama", "causal", attention=attention))
    found, attachment = noisy_logits(model_of(kind, attention))
    torch.testing.assert_close(found, expected)
    shares = attachment.shares()
    assert min(shares.values()) > 0


def test_a_function_that_computes_more_runs_itself():
    model = model_of(Biased)
    attachment = hiddenkey.attach(model, NOISE)
    assert {site.kernel for site in attachment.sites} == {"intercepted", "hook"}
    plain = run(model.eval(), INPUTS).logits
    attachment.set_rates(dict.fromkeys(attachment.rates, 1e-12))
    torch.testing.assert_close(run(model.train(), INPUTS).logits, plain, rtol=1e-4, atol=1e-5)
    attachment.set_rates(dict.fromkeys(attachment.rates, 0.3))
    run(model, INPUTS)
    assert min(attachment.shares().values()) > 0


def test_a_function_that_nobody_can_find_is_refused():
    with pytest.raises(AttachError, match=r"Lost has no function.*attn_implementation='sdpa'"):
        hiddenkey.attach(model_of(Lost), NOISE)
    model = model_of(Lost, "sdpa")
    hiddenkey.attach(model, NOISE)
    run(model, INPUTS)


def test_each_tower_has_its_own():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    with seeded(0):
        vision = Llama4VisionModel(Llama4VisionConfig(**sizes, num_attention_heads=4))
    attention = vision.model.layers[0].self_attn
    assert dispatch._eager_function(attention) is modeling_llama4.vision_eager_attention_forward
    text = plain_model("llama", "causal").model.layers[0].self_attn
    assert dispatch._eager_function(text) is plain_eager


def test_transformers_has_one_of_another_name():
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "head_dim": 8}
    config = TimesFmConfig(**sizes, num_attention_heads=4, attn_implementation="eager")
    with seeded(0):
        model = TimesFmModel(config)
    attachment = hiddenkey.attach(model, NOISE)
    names = [site.name for site in attachment.sites if site.position == "attention_logits"]
    assert names == ["layers.0.self_attn", "layers.1.self_attn"]
