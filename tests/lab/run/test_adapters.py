import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    TrainerCallback,
)

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.lab.run.adapters import (
    add_adapter,
    ia3_config,
    key_value_modules,
    load_precision,
    trainable_counts,
)
from hiddenkey.lab.run.building import build_trainer
from hiddenkey.lab.run.folder import RunFolder
from hiddenkey.lab.run.models import load_model
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
ADAPTERS = ("lora", "dora", "ia3", "prefix", "full")
LABELS = ("ant", "bee", "cat")
HEAD = 16 * 3 + 3
# of the tiny BERT: two layers, 16 wide, 32 between; rank 8, three virtual tokens
LORA = 2 * 2 * (16 * 8 * 2)
PARAMETERS = {
    "lora": LORA,
    "dora": LORA + 2 * 2 * 16,
    "ia3": 2 * (16 + 16 + 32),
    "prefix": 3 * 2 * 2 * 16,
}
SIZES = {"vocab_size": 47, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
SMALL = {
    "bert": BertConfig(**SIZES, num_hidden_layers=2),
    "llama": LlamaConfig(**SIZES, num_hidden_layers=2, num_key_value_heads=1, pad_token_id=0),
    "gpt2": GPT2Config(
        vocab_size=47, n_embd=16, n_head=2, n_layer=2, n_inner=32, n_positions=32, pad_token_id=0
    ),
    "distilbert": DistilBertConfig(vocab_size=47, dim=16, n_heads=2, n_layers=2, hidden_dim=32),
}


def on_meta(config):
    with torch.device("meta"):
        return AutoModelForSequenceClassification.from_config(config)


def small(family):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_config(SMALL[family])


def settings(adapter, **changes):
    prefix = {"prefix_tokens": 3} if adapter == "prefix" else {}
    return TrainOptions(adapter=adapter, max_length=16, **prefix, **changes)


def loaded(folder, options):
    model, _ = load_model(str(folder), "classification", LABELS, load_precision(options))
    return model


def inputs():
    tokens = torch.randint(4, 47, (4, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def shake(model):
    """Move all trained weights, so that they are not what an adapter starts with."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def stored(folder, adapter, base, task=AutoModelForSequenceClassification):
    """Read what a run stored with nothing but PEFT and transformers."""
    from peft import PeftModel

    if adapter == "full":
        return task.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(base, str(folder)).eval()


class Start(TrainerCallback):
    """Records the trained weights before the first step."""

    def on_train_begin(self, args, state, control, model=None, **_):
        self.weights = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }


class Stop(TrainerCallback):
    """Breaks a run off at its fifth step."""

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == 5:
            raise InterruptedError


@pytest.mark.parametrize(
    ("config", "modules"),
    [
        (BertConfig(num_hidden_layers=1), ["key", "value"]),
        (DistilBertConfig(n_layers=1), ["k_lin", "v_lin"]),
        (LlamaConfig(num_hidden_layers=1), ["k_proj", "v_proj"]),
        (GPT2Config(n_layer=1), ["c_attn"]),
        (GPTNeoXConfig(num_hidden_layers=1), ["query_key_value"]),
    ],
)
def test_default_targets_are_key_and_value(config, modules):
    assert key_value_modules(on_meta(config)) == modules


def test_unknown_projections_list_the_linear_layers():
    model = nn.ModuleDict({"mixer": nn.Linear(2, 2), "out": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match=r"target_modules must be given .* layers: mixer, out$"):
        key_value_modules(model)


@pytest.mark.parametrize("adapter", ["lora", "ia3"])
def test_unknown_target_module_is_refused(adapter):
    options = settings(adapter, target_modules=("k_proj", "value"))
    with pytest.raises(
        ConfigError, match=r"got \['k_proj'\]; it has classifier, dense, key, query"
    ):
        add_adapter(small("bert"), options)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapter_and_head_are_trained_and_nothing_else(tiny_model, adapter):
    options = settings(adapter)
    model = loaded(tiny_model, options)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = add_adapter(model, options)
    counts = trainable_counts(adapted)
    everything = sum(weight.numel() for weight in before.values())
    if adapter == "full":
        assert counts == {"trainable": everything, "adapter": 0, "total": everything}
    else:
        assert counts["adapter"] == PARAMETERS[adapter]
        assert counts["trainable"] == PARAMETERS[adapter] + HEAD
    loss = adapted(**inputs(), labels=torch.tensor([0, 1, 2, 0])).loss
    loss.backward()
    optimiser = torch.optim.SGD([p for p in adapted.parameters() if p.grad is not None], lr=0.1)
    optimiser.step()
    moved = {n for n, p in model.named_parameters() if n in before and not p.equal(before[n])}
    kept = set() if adapter == "full" else set(before)
    assert not moved & kept
    assert adapter != "full" or moved == set(before)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_bfloat16_keeps_trained_weights_in_float32(tiny_model, adapter):
    options = settings(adapter, precision="bfloat16")
    model = add_adapter(loaded(tiny_model, options), options)
    kinds = {p.requires_grad: p.dtype for p in model.parameters()}
    frozen = {} if adapter == "full" else {False: torch.bfloat16}
    assert kinds == {True: torch.float32, **frozen}
    if adapter == "full":  # no digit was lost on the way
        exact = load_model(str(tiny_model), "classification", LABELS, "float32")[0].bert
        assert torch.equal(model.bert.pooler.dense.weight, exact.pooler.dense.weight)


@pytest.mark.parametrize(
    ("family", "outputs", "entries"),
    [
        ("bert", r"attention\.self\.(key|value)", r"\d\.output\.dense"),
        ("llama", r"self_attn\.(k|v)_proj", r"mlp\.down_proj"),
        ("gpt2", r"attn\.c_attn", r"mlp\.c_proj"),
        ("distilbert", r"attention\.(k|v)_lin", r"ffn\.lin2"),
    ],
)
def test_ia3_scales_keys_and_values_and_what_enters_the_last_feed_forward_layer(
    family, outputs, entries
):
    model = small(family).eval()
    plain = model(**inputs()).logits
    adapted = add_adapter(model, settings("ia3"))
    places = {True: [], False: []}
    for name, module in adapted.named_modules():
        if hasattr(module, "ia3_l"):
            places[module.is_feedforward].append(name)
    assert len(places[True]) == 2
    assert len(places[False]) == (2 if family == "gpt2" else 4)
    assert all(_ends_with(name, entries) for name in places[True])
    assert all(_ends_with(name, outputs) for name in places[False])
    torch.testing.assert_close(adapted(**inputs()).logits, plain)  # its vectors start as ones


def _ends_with(name, pattern):
    return re.search(rf"{pattern}$", name) is not None


def test_ia3_takes_named_modules():
    options = settings("ia3", target_modules=("query", "bert.encoder.layer.1.output.dense"))
    config = ia3_config(small("bert"), options)
    feed_forward = r"bert\.encoder\.layer\.\d+\.output\.dense"
    assert config.feedforward_modules == feed_forward
    query = r"bert\.encoder\.layer\.\d+\.attention\.self\.query"
    assert config.target_modules == f"{query}|{feed_forward}"


def test_ia3_of_many_layers_is_read_back(tmp_path):
    """PEFT shortens the names of twenty targets or more when it puts an adapter on."""
    config = BertConfig(**SIZES, num_hidden_layers=24, num_labels=3)
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(config)
    base.save_pretrained(tmp_path / "base")
    adapted = add_adapter(base, settings("ia3")).eval()
    shake(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    reloaded = stored(tmp_path / "adapter", "ia3", again)
    assert torch.equal(adapted(**inputs()).logits, reloaded(**inputs()).logits)


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_hiddenkey_acts_in_every_layer(adapter, family):
    model = add_adapter(small(family), settings(adapter)).train()
    with hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.3)) as attachment:
        sites = sorted((site.position, site.layer) for site in attachment.sites)
        assert sites == [(place, n) for place in ("attention_logits", "hidden") for n in (0, 1)]
        model(**inputs(), labels=torch.tensor([0, 1, 1, 0])).loss.backward()
        assert attachment.losses["consistency"] > 0
        assert all(share > 0 for share in attachment.shares().values())
    trained = [p for n, p in model.named_parameters() if p.requires_grad and "pooler" not in n]
    assert trained
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_stored_run_gives_the_same_outputs(tiny_options, adapter):
    """Its loss on the evaluation examples, computed anew from the files, is the recorded one."""
    options = replace(tiny_options, adapter=adapter, rank=8, method="hiddenkey-minus")
    result = train(options)
    assert result.lora_parameters == {**PARAMETERS, "prefix": 16 * 64, "full": 0}[adapter]
    assert all(summary.last is not None for summary in result.metrics.values())
    base = loaded(options.model, options)
    model = stored(Path(options.output) / "adapter", adapter, base)
    _, tokenizer = load_model(options.model, "classification", LABELS, "float32")
    prepared = prepare(replace(options, output=f"{options.output}-again"))
    trainer = build_trainer(options, prepared, model, tokenizer, Path(options.output))
    again = trainer.evaluate(trainer.eval_dataset["dev"])
    assert again["eval_loss"] == pytest.approx(result.eval_loss.last, rel=1e-5)


@pytest.mark.parametrize("adapter", ["ia3", "prefix", "full"])
def test_a_resumed_run_ends_like_an_undisturbed_one(tiny_options, tmp_path, adapter):
    options = replace(tiny_options, adapter=adapter, rank=8, rate=0.3, evaluations=2)
    whole = train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop()])
    resumed = train(replace(options, resume=True))
    assert (resumed.eval_loss, resumed.metrics) == (whole.eval_loss, whole.metrics)


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_methods_start_from_the_same_weights(tiny_options, tmp_path, adapter):
    starts = {}
    for method, seed in (("lora", 0), ("hiddenkey", 0), ("lora", 1)):
        starts[method, seed] = Start()
        options = replace(
            tiny_options, adapter=adapter, rank=8, method=method, seed=seed, max_steps=1,
            evaluations=1, output=str(tmp_path / f"{method}-{seed}"),
        )  # fmt: skip
        train(options, callbacks=[starts[method, seed]])
    plain, noisy, other = (start.weights for start in starts.values())
    assert plain.keys() == noisy.keys() == other.keys()
    assert all(torch.equal(weight, noisy[name]) for name, weight in plain.items())
    assert not all(torch.equal(weight, other[name]) for name, weight in plain.items())


def test_a_model_without_a_cache_takes_no_prefix(tiny_options, tiny_tokenizer, tmp_path):
    folder = tmp_path / "model"
    small("distilbert").save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    options = replace(tiny_options, model=str(folder), adapter="prefix", rank=8)
    with pytest.raises(ConfigError, match="adapter 'prefix' needs a model that reads keys and"):
        train(options)
    assert not Path(options.output).exists()


def test_ia3_needs_a_feed_forward_block():
    model = nn.ModuleDict({"key": nn.Linear(4, 4), "value": nn.Linear(4, 4)})
    with pytest.raises(ConfigError, match="adapter 'ia3' scales feed-forward layers"):
        add_adapter(model, settings("ia3"))


def test_a_run_from_before_there_were_adapters_is_gone_on_with(tiny_options):
    options = replace(tiny_options, resume=True)
    record = prepare(options).data_record()
    folder = RunFolder(options.folder)
    folder.start(options, record)
    config = options.folder / "config.yaml"
    kept = [line for line in config.read_text().splitlines() if not line.startswith("adapter:")]
    config.write_text("\n".join(kept))
    assert folder.plan(options, record) == "interrupted"
    with pytest.raises(ConfigError, match="adapter was 'lora', got 'dora'"):
        folder.plan(replace(options, adapter="dora"), record)


def test_the_names_in_a_saved_adapter_are_in_order(tmp_path):
    """PEFT keeps them in a set: each process would write another order."""
    model = AutoModelForSequenceClassification.from_config(SMALL["bert"])
    names = ("value", "key", "query", "dense")
    add_adapter(model, TrainOptions(target_modules=names)).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["target_modules"] == ["dense", "key", "query", "value"]
