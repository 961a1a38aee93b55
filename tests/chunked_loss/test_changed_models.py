"""What a script changes of a language model beside the chunked loss: its loss, head and cache."""

import dataclasses

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from torch.nn import functional as F

import hiddenkey
from hiddenkey import Consistency, ConsistencyError, Drop, DropoutConfig
from hiddenkey.step import added_loss
from hiddenkey.step.caches import copied
from models import CACHE, assert_same_gradients, batch, lora_model, plain_model, run, step

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

OUTPUT = DropoutConfig((Drop("output", "element", 0.5),), Consistency())
ONE_PASS = ["label-smoothing", "temporal"]


def ten_times(logits, labels, vocab_size=None, num_items_in_batch=None, **_):
    own = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
    return 10 * own


@pytest.mark.parametrize("passes_before", [0, 1])
@pytest.mark.parametrize("method", ["hiddenkey", *ONE_PASS])
def test_a_loss_function_given_after_attach_is_the_one_that_trains(
    method, passes_before, monkeypatch
):
    monkeypatch.setattr(added_loss, "LARGE_VOCABULARY", 10)
    model = plain_model("llama", "causal", dropout=0.0)
    inputs = batch("causal", "none")
    expected = 10 * run(model, inputs).loss.item()
    attachment = hiddenkey.attach(model, dataclasses.replace(hiddenkey.method(method), drops=()))
    for _ in range(passes_before):
        run(model, inputs)
    model.loss_function = ten_times
    run(model, inputs)
    assert attachment.losses["task"] == pytest.approx(expected, rel=1e-4)
    attachment.detach()
    assert model.loss_function is ten_times


@pytest.mark.parametrize("method", ["hiddenkey", *ONE_PASS])
def test_it_is_refused_where_logits_were_ruled_out(method):
    model = plain_model("llama", "causal")
    hiddenkey.attach(model, method, lm_loss="chunked")
    run(model, batch("causal"))
    model.loss_function = ten_times
    with pytest.raises(ConsistencyError, match="the loss function was replaced after attach"):
        run(model, batch("causal"))


def in_both_ways(build, config, change=lambda model: None):
    found = []
    for lm_loss in ("chunked", "full"):
        model = build()
        change(model)
        attachment = hiddenkey.attach(model, config, lm_loss=lm_loss)
        loss, gradients = step(model, batch("causal"), 3)
        found.append((loss, attachment.losses, gradients, attachment.shares()))
    chunked, full = found
    assert chunked[0] == pytest.approx(full[0], rel=1e-5)
    assert chunked[1] == pytest.approx(full[1], rel=1e-4)
    assert chunked[3] == pytest.approx(full[3])
    assert_same_gradients(chunked[2], full[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", [{}, {"target_modules": ["lm_head", "q_proj"]}])
def test_what_reaches_the_head_is_dropped_once(head):
    in_both_ways(lambda: lora_model("llama", "causal", dropout=0.0, **head), OUTPUT)


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_hook_of_ones_own_on_the_head_acts_once(is_first, is_trained):
    def tenfold(module, args):
        return (10 * args[0],)

    def build():
        model = plain_model("llama", "causal", dropout=0.0)
        model.lm_head.weight.requires_grad_(is_trained)
        return model

    def put(model):
        model.lm_head.register_forward_pre_hook(tenfold)

    if is_first:
        in_both_ways(build, hiddenkey.method("hiddenkey"), put)
        return
    losses = []
    for lm_loss in ("chunked", "full"):
        model = build()
        hiddenkey.attach(model, "hiddenkey", lm_loss=lm_loss)
        put(model)
        losses.append(step(model, batch("causal"), 3)[0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("method", ONE_PASS)
def test_the_first_pass_leaves_a_given_cache_as_it_is(method):
    """A self-test runs before it, which must not lengthen what the trained pass attends to."""
    model = plain_model("llama", "causal", dropout=0.0)
    inputs = {**batch("causal", "none")}
    del inputs["attention_mask"]
    with torch.no_grad():
        cache = model.eval()(inputs["input_ids"][:, :5], use_cache=True)
        before = getattr(cache, CACHE, None) or cache.past_key_values
    expected = model(**inputs, **{CACHE: copied(before)}).loss.item()
    attachment = hiddenkey.attach(model.train(), method, lm_loss="chunked")
    run(model, {**inputs, CACHE: before})
    assert attachment.losses["task"] == pytest.approx(expected, rel=1e-5)
    assert before.get_seq_length() == 5 + inputs["input_ids"].shape[1]


@pytest.mark.parametrize("method", ONE_PASS)
def test_nor_the_keys_of_prefix_tuning(method):
    model = plain_model("llama", "causal", dropout=0.0)
    model = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    expected = run(model.train(), batch("causal")).loss.item()
    attachment = hiddenkey.attach(model, method, lm_loss="chunked")
    run(model, batch("causal"))
    assert attachment.losses["task"] == pytest.approx(expected, rel=1e-5)
