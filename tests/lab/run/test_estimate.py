"""The estimates against what PyTorch counts: parameters, saved tensors, memory, multiplications."""

import dataclasses
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.lab.run import cost_model
from hiddenkey.lab.run.cost_model import Method, Setting
from hiddenkey.lab.run.estimate import EstimateOptions, config_of, count, estimates
from hiddenkey.lab.run.quantised import BYTES

KINDS = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
TARGETS = ("k_proj", "v_proj")
SEQUENCES, TOKENS, RANK = 2, 16, 4
NOISES = {
    "lora": Method(),
    "hiddenkey-minus": Method(drops=True),
    "hiddenkey": Method(drops=True, compares=True),
}


def tiny(kind: str = "llama", layers: int = 2, **more):
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "num_hidden_layers": layers, "vocab_size": 300}
    own = {"sliding_window": None} if kind != "llama" else {}
    return KINDS[kind](**{**sizes, **own, "use_cache": False, **more})


def built(config, method: str, dtype=torch.bfloat16, *, checkpointing=False, lm_loss="auto"):
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    lora = LoraConfig(r=RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    with pytest.warns(FutureWarning, match="deprecated"):  # PEFT asks by an old name
        model = get_peft_model(model, lora).train()
    hiddenkey.attach(model, method, lm_loss=lm_loss)
    return model


def inputs(vocabulary: int, tokens: int = TOKENS):
    ids = torch.randint(0, vocabulary, (SEQUENCES, tokens))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def setting(**more) -> Setting:
    plain = Setting(SEQUENCES, TOKENS, 1, "none", checkpointing=False, width=2)
    return dataclasses.replace(plain, **more)


def saved_bytes(config, method: str, dtype, **more) -> int:
    """What autograd keeps of a training step, parameters aside."""
    model = built(config, method, dtype, **more)
    owned = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**inputs(config.vocab_size)).loss
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in owned)


@pytest.mark.parametrize(("bits", "width"), [("4bit", 0.516), ("8bit", 1.0)])
def test_quantised_are_the_linear_layers_below_the_head_and_the_rest_is_in_float32(bits, width):
    sizes = count(tiny(), RANK, TARGETS)
    # two layers of query and output, key and value, three of the feed-forward block
    linear = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 160)
    others = 2 * 300 * 64 + (2 * 2 + 1) * 64  # embeddings and head, norms
    found = cost_model.memory(sizes, setting(quantised=BYTES[bits]), Method()).weights
    assert found == pytest.approx(linear * width + 4 * others)
    with pytest.raises(ConfigError, match=f"sharding must be 'none' with quantize='{bits}'"):
        list(estimates(EstimateOptions(quantize=bits, sharding="fsdp2")))


@pytest.mark.parametrize("method", NOISES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_keeps_the_bytes_that_autograd_saves(kind, dtype, method):
    one, two = (saved_bytes(tiny(kind, n), method, dtype) for n in (1, 2))
    sizes = count(tiny(kind), RANK, TARGETS)
    expected = cost_model.layer_bytes(sizes, dtype.itemsize, NOISES[method])
    assert two - one == expected * SEQUENCES * TOKENS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_recomputed_layer_keeps_its_input(dtype):
    one, two = (saved_bytes(tiny(layers=n), "lora", dtype, checkpointing=True) for n in (1, 2))
    sizes = count(tiny(), RANK, TARGETS)
    now = setting(checkpointing=True, width=dtype.itemsize)
    first = cost_model.activation_bytes(dataclasses.replace(sizes, layers=1), now, Method())
    second = cost_model.activation_bytes(dataclasses.replace(sizes, layers=2), now, Method())
    assert two - one == (second - first) * SEQUENCES * TOKENS


class Peak(TorchDispatchMode):
    """The most bytes of new tensors at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return found

    def _add(self, storage) -> None:
        if storage._cdata in self._alive:
            return
        self._alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, storage._cdata)

    def _remove(self, key: int) -> None:
        self.now -= self._alive.pop(key)


@pytest.mark.parametrize(
    ("method", "lm_loss", "sharding"),
    [("lora", "auto", "none"), ("hiddenkey-minus", "auto", "none"), ("hiddenkey", "full", "zero3")],
)
def test_the_head_needs_the_bytes_of_its_logits(method, lm_loss, sharding):
    vocabulary, tokens = 16_384, 128
    config = tiny(layers=1, hidden_size=16, intermediate_size=16, vocab_size=vocabulary,
                  tie_word_embeddings=True)  # fmt: skip
    model = built(config, method, lm_loss=lm_loss)
    with Peak() as peak:
        model(**inputs(vocabulary, tokens)).loss.backward()
    noise = NOISES[method]
    sizes = count(config, RANK, TARGETS)
    expected = cost_model.memory(sizes, setting(tokens=tokens, sharding=sharding), noise).loss
    assert peak.peak == pytest.approx(expected, rel=0.03)


def test_the_chunked_loss_needs_no_logits():
    now = setting(sequences=8, tokens=2048)
    sizes = count(config_of("llama2-7b"), 8, TARGETS)
    compared = cost_model.memory(sizes, now, NOISES["hiddenkey"]).loss
    assert compared < 0.15 * cost_model.memory(sizes, now, Method()).loss


@pytest.mark.parametrize("tokens", [16, 64])
def test_the_forward_pass_multiplies_as_often_as_torch_counts(tokens):
    config = tiny(hidden_size=64, layers=3)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**inputs(config.vocab_size, tokens))
    sizes = count(config, RANK, TARGETS)
    per_token, share = cost_model.forward_flops(sizes, tokens)
    # the attention map counts each pair of tokens, causal attention half of them; and positions
    whole = per_token * (1 + share) * SEQUENCES * tokens
    assert counter.get_total_flops() == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(
    ("share", "steps", "exact"), [(0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.25, 1.0, 0.25)]
)
def test_the_other_pass_costs_its_share_of_a_forward_pass(share, steps, exact):
    sizes = count(config_of("llama2-7b"), 8, TARGETS)
    noise = Method(drops=True, compares=steps > 0, share=share)
    for checkpointing in (False, True):
        now = setting(tokens=2048, checkpointing=checkpointing)
        plain = cost_model.step_flops(sizes, now, Method())
        attention = cost_model.forward_flops(sizes, 2048)[1]
        passes = 2 + 1.5 * attention + checkpointing
        found = cost_model.step_flops(sizes, now, noise) / plain
        assert found == pytest.approx(1 + exact / passes)


def test_the_parameters_of_real_models():
    for model, total, lora in (("llama2-7b", 6_738_415_616, 4_194_304),
                               ("llama2-70b", 68_976_648_192, 11_796_480)):  # fmt: skip
        sizes = count(config_of(model), 8, TARGETS)
        assert (sizes.parameters, sizes.lora) == (total, lora)
        assert sizes.multiplied < total - sizes.head_parameters  # the embeddings are looked up


def test_tied_embeddings_count_once():
    tied, own = (count(tiny(tie_word_embeddings=tie), RANK, TARGETS) for tie in (True, False))
    assert own.parameters - tied.parameters == 300 * 64
    assert own.multiplied == tied.multiplied


def test_lora_is_counted_as_peft_does():
    model = built(tiny(layers=3), "lora")
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count(tiny(layers=3), RANK, TARGETS).lora == trained


@pytest.mark.parametrize("sharding", ["fsdp2", "zero3"])
def test_sharded_weights_are_shared_out(sharding):
    options = EstimateOptions("llama2-70b", devices=(8, 16), sharding=sharding, checkpointing=True)
    eight, sixteen = estimates(options)
    whole = 2 * count(config_of("llama2-70b"), 8, TARGETS).parameters
    saved = eight.memory["LoRA"].weights - sixteen.memory["LoRA"].weights
    assert saved == pytest.approx(whole / 16)
    assert eight.fits
    assert sixteen.gathering > 5 * eight.gathering  # the second machine is behind the network


def test_weights_that_travel_longer_than_they_are_used_decide_the_time():
    slow = {"network": 1.0, "devices": (16,), "sharding": "fsdp2"}
    (row,) = estimates(EstimateOptions(**slow))
    assert row.seconds["LoRA"] == row.gathering
    assert row.seconds["HiddenKey"] == pytest.approx(1.5 * row.gathering)
    assert row.seconds["fraction 0.25"] == row.seconds["HiddenKey"]
    assert row.seconds["every 4"] == pytest.approx((1.5 + 3) / 4 * row.gathering)


def test_a_model_of_another_kind_is_refused(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"of the types llama, mistral, qwen2, .* got 'bert'"):
        list(estimates(EstimateOptions(str(tmp_path))))


def test_a_models_folder_is_read(tmp_path):
    tiny("qwen2").save_pretrained(tmp_path)
    (row,) = estimates(EstimateOptions(str(tmp_path)))
    assert row.memory["LoRA"].weights == 2 * count(tiny("qwen2"), 8, TARGETS).parameters


def test_all_faults_are_told():
    options = EstimateOptions(rank=(0,), batch_size=0, utilisation=1.5, reserve=90.0, teraflops=0.0)
    with pytest.raises(ConfigError) as caught:
        list(estimates(options))
    assert [fault.partition(" must")[0] for fault in caught.value.faults] == [
        "rank", "batch_size", "teraflops", "utilisation", "reserve"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"linear layers of a layer, got \['query'\]; it has q"):
        list(estimates(EstimateOptions(target_modules=("query",))))
