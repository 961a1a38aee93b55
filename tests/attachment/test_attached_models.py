"""Several attached models at once, and attaching again, inside of others, and after errors."""

import pytest
import torch
from peft import LoraConfig
from torch import nn

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from models import (
    assert_same_gradients,
    batch,
    lora_model,
    plain_model,
    run,
    seeded,
    snapshot,
    step,
)


def test_two_copies_of_one_class_do_not_disturb_each_other():
    """Each trains as it would alone, with calls and detaching interleaved."""
    inputs = batch(padding="left")
    configs = (
        hiddenkey.method("hiddenkey", rate=0.4),
        DropoutConfig((Drop("attention_weights", "element", 0.2),), share_heads=True),
    )

    def losses(model, count):
        return [step(model, inputs, seed) for seed in range(count)]

    alone = []
    for config in configs:
        model = lora_model("llama")
        hiddenkey.attach(model, config)
        alone.append(losses(model, 3))

    models = [lora_model("llama") for _ in range(2)]
    attachments = [hiddenkey.attach(m, c) for m, c in zip(models, configs, strict=True)]
    together: list[list] = [[], []]
    for seed in range(2):
        for model, results in zip(models, together, strict=True):
            results.append(step(model, inputs, seed))
    attachments[0].detach()
    together[1].append(step(models[1], inputs, 2))
    for mine, own in zip(together, alone, strict=True):
        for (loss, gradients), (own_loss, own_gradients) in zip(mine, own, strict=False):
            assert loss == own_loss
            assert_same_gradients(gradients, own_gradients, rtol=0, atol=0)
    assert attachments[1].losses["task"] == pytest.approx(together[1][-1][0])
    assert len(together[1]) == 3


def test_sdpa_eager_and_plain_models_live_side_by_side():
    inputs = batch(padding="left")
    makers = [
        lambda: plain_model("bert", attention="sdpa"),
        lambda: plain_model("bert", attention="eager"),
        lambda: plain_model("bert", attention="sdpa"),
    ]
    methods = ["dropkey", "dropattention-span", None]

    def attached(maker, method):
        model = maker()
        if method:
            hiddenkey.attach(model, hiddenkey.method(method, rate=0.4))
        return model

    alone = [
        run(attached(maker, method), inputs).logits
        for maker, method in zip(makers, methods, strict=True)
    ]
    models = [attached(maker, method) for maker, method in zip(makers, methods, strict=True)]
    for _ in range(2):
        for model, expected in zip(models, alone, strict=True):
            assert torch.equal(run(model, inputs).logits, expected)
    assert [m.config._attn_implementation for m in models] == ["sdpa", "eager", "sdpa"]


def test_attaching_twice_replaces_the_first():
    model, fresh = lora_model("bert"), lora_model("bert")
    inputs = batch()
    untouched = snapshot(model)
    first = hiddenkey.attach(model, "hiddenkey")
    second = hiddenkey.attach(model, hiddenkey.method("dropkey", rate=0.3))
    hiddenkey.attach(fresh, hiddenkey.method("dropkey", rate=0.3))
    assert torch.equal(run(model, inputs).loss, run(fresh, inputs).loss)
    assert first.shares() == {} or all(s != s for s in first.shares().values())
    first.detach()  # of no effect any more
    assert torch.equal(run(model, inputs).loss, run(fresh, inputs).loss)
    second.detach()
    second.detach()
    after = snapshot(model)
    after = {k: v for k, v in after.items() if not k.endswith(": config")}
    assert after == {k: v for k, v in untouched.items() if not k.endswith(": config")}


def test_the_context_manager_detaches_even_on_errors():
    model = lora_model("bert")
    step(model, batch())
    before = snapshot(model)
    with hiddenkey.attach(model, "hiddenkey") as attachment:
        assert isinstance(attachment, hiddenkey.Attachment)
        step(model, batch())
    assert snapshot(model) == before
    with pytest.raises(KeyError, match="mine"), hiddenkey.attach(model, "hiddenkey"):  # noqa: PT012
        step(model, batch())
        raise KeyError("mine")
    assert snapshot(model) == before


def test_a_failing_forward_leaves_a_working_attachment():
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, "hiddenkey")
    expected = run(model, batch()).loss
    with pytest.raises(IndexError):
        model(input_ids=torch.full((2, 4), 1000), labels=torch.zeros(2, dtype=torch.long))
    assert torch.equal(run(model, batch()).loss, expected)
    assert sum(attachment.losses.values()) == pytest.approx(expected.item())


def test_adapters_added_by_transformers_itself_are_accepted():
    """``PreTrainedModel.add_adapter`` puts LoRA into a model without wrapping it."""
    model = plain_model("bert")
    config = LoraConfig(target_modules=["key", "value"], r=4)
    try:
        with seeded(1):
            model.add_adapter(config)
    except ValueError as refusal:  # transformers wants a later PEFT
        pytest.skip(str(refusal))
    attachment = hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=0.4))
    loss, gradients = step(model, batch())
    assert attachment.losses.keys() == {"task", "consistency"}
    assert sum(attachment.losses.values()) == pytest.approx(loss)
    assert all(g.isfinite().all() for g in gradients.values())


def test_noise_reaches_a_model_attached_through_its_inner_model():
    """``attach(peft_model.get_base_model(), …)`` is either the same as ``attach(peft_model, …)``
    or refused, never half at work."""
    model, expected = lora_model("bert"), lora_model("bert")
    config = hiddenkey.method("hiddenkey", rate=0.4)
    hiddenkey.attach(expected, config)
    wanted = step(expected, batch())[0]
    try:
        hiddenkey.attach(model.get_base_model(), config)
        got = step(model, batch())[0]
    except (hiddenkey.AttachError, hiddenkey.ConsistencyError):
        return
    assert got == wanted


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = lora_model("bert"), plain_model("gpt2")

    def forward(self, **inputs):
        return self.left(**inputs).loss + self.right(**inputs).loss


def test_attached_models_work_inside_a_larger_module():
    towers = TwoTowers()
    attachments = [hiddenkey.attach(t, "hiddenkey") for t in (towers.left, towers.right)]
    inputs = batch()
    with seeded(0):
        loss = towers(**inputs)
    loss.backward()
    assert loss.item() == pytest.approx(sum(sum(a.losses.values()) for a in attachments))
