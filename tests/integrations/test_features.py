"""Trainer's settings: as without the attachment where noise is off, and noise on where it is on."""

import pytest
import torch

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from hiddenkey.integrations.trainer import watch
from integrations.trainers import assert_same_weights, logs, tiny_trainer, weights
from models import batch, gradients, lora_model, seeded

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True"),
    pytest.mark.filterwarnings("ignore:.*non-tuple sequence for multidimensional"),
]

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3).drops
OFF = DropoutConfig(tuple(hiddenkey.Drop(drop.position, drop.pattern, 0.0) for drop in NOISE))
TASKS = {"bert": "classification", "llama": "causal"}
SETTINGS = {
    "checkpointing": {"gradient_checkpointing": True},
    "re-entrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "bfloat16": {"bf16": True},
    "accumulation": {"gradient_accumulation_steps": 2},
    "grouped by length": {"train_sampling_strategy": "group_by_length"},
    "found batch size": {"auto_find_batch_size": True},
    "evaluation first": {"eval_on_start": True, "eval_strategy": "steps", "eval_steps": 2},
    "own mean": {"average_tokens_across_devices": False},
    "unused columns": {"remove_unused_columns": False},
}
ROUNDING = {"bfloat16": {"rtol": 1e-2, "atol": 1e-4}}


def train(family, folder, config, **settings):
    model = lora_model(family, TASKS[family], dropout=0.0)
    if settings.get("gradient_checkpointing_kwargs", {}).get("use_reentrant"):
        model.enable_input_require_grads()
    made = tiny_trainer(model, folder, TASKS[family], **settings)
    attachment = hiddenkey.attach(model, config) if config is not None else None
    if attachment is not None:
        watch(made, attachment)
    made.train()
    return logs(made), weights(model)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", TASKS)
def test_without_noise_it_trains_as_without_the_attachment(family, setting, tmp_path):
    expected, trained = train(family, tmp_path, None, **SETTINGS[setting])
    off = DropoutConfig(OFF.drops, Consistency())
    found, ours = train(family, tmp_path, off, **SETTINGS[setting])
    for log, wanted in zip(found, expected, strict=True):
        assert log["loss"] == pytest.approx(wanted["loss"], rel=1e-3 if "bf" in setting else 1e-5)
        assert log["consistency_loss"] == pytest.approx(0, abs=1e-6)
    assert_same_weights(trained, ours, **ROUNDING.get(setting, {}))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("family", TASKS)
def test_with_noise_it_is_on(family, setting, tmp_path):
    found, _ = train(family, tmp_path, DropoutConfig(NOISE, Consistency()), **SETTINGS[setting])
    assert len(found) == 3
    for log in found:
        for key in ("attention_logits", "hidden"):
            assert 0.15 < log[f"dropped/{key}"] < 0.45
        assert log["consistency_loss"] > 0.005
        total = log["task_loss"] + log["consistency_loss"]
        assert total == pytest.approx(log["loss"], rel=1e-2 if "bf" in setting else 1e-3)


@pytest.mark.parametrize("family", TASKS)
def test_noisy_embeddings(family, tmp_path):
    """NEFTune draws too, so that the passes of a consistency loss differ by its noise as well."""
    settings = {"neftune_noise_alpha": 5}
    expected, trained = train(family, tmp_path, None, **settings)
    found, ours = train(family, tmp_path, OFF, **settings)
    assert [log["loss"] for log in found] == [log["loss"] for log in expected]
    assert_same_weights(trained, ours)
    found, _ = train(family, tmp_path, DropoutConfig(OFF.drops, Consistency()), **settings)
    assert all(log["consistency_loss"] > 0.001 for log in found)


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("family", TASKS)
def test_compiled(family, tmp_path):
    torch._dynamo.reset()
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    expected, trained = train(family, tmp_path, None)
    found, ours = train(family, tmp_path, DropoutConfig(OFF.drops, Consistency()), **settings)
    for log, wanted in zip(found, expected, strict=True):
        assert log["loss"] == pytest.approx(wanted["loss"], rel=1e-4)
    assert_same_weights(trained, ours, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
    found, _ = train(family, tmp_path, DropoutConfig(NOISE, Consistency()), **settings)
    for log in found:
        assert log["consistency_loss"] > 0.005
        assert 0.15 < log["dropped/attention_logits"] < 0.45
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", TASKS)
def test_autocast_with_a_scaled_loss(family, dtype):
    """As mixed precision runs in a loop of one's own."""
    inputs = batch(TASKS[family])
    found = []
    for config in (
        None,
        DropoutConfig(OFF.drops, Consistency()),
        DropoutConfig(NOISE, Consistency()),
    ):
        model = lora_model(family, TASKS[family], dropout=0.0)
        attachment = hiddenkey.attach(model, config) if config is not None else None
        with seeded(0), torch.autocast("cpu", dtype=dtype):
            loss = model(**inputs).loss
        (loss * 1024).backward()
        found.append((loss.item(), gradients(model)))
        for gradient in found[-1][1].values():
            assert gradient.isfinite().all()
    assert found[1][0] == pytest.approx(found[0][0], rel=1e-3)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(
            found[1][1][name], gradient, rtol=2e-2, atol=2e-2 * gradient.abs().max().item()
        )
    assert attachment.losses["consistency"] > 0.005
    assert all(share > 0.15 for share in attachment.shares().values())


def test_a_start_that_ran_out_of_memory_is_forgotten(tmp_path):
    """``auto_find_batch_size`` begins anew, after a pass that succeeded and one that did not."""
    model = lora_model("bert", dropout=0.0)
    made = tiny_trainer(
        model,
        tmp_path,
        per_device_train_batch_size=8,
        auto_find_batch_size=True,
        gradient_accumulation_steps=2,
    )
    attachment = hiddenkey.attach(model, DropoutConfig(NOISE, Consistency(every=2)))
    watch(made, attachment)
    calls = []

    def second_large_batch_is_too_much(module, args, output):
        calls.append(len(output))
        if len(output) == 8 and calls.count(8) > 2:  # the first one took two passes
            raise RuntimeError("CUDA out of memory.")  # the words that accelerate knows

    model.get_base_model().classifier.register_forward_hook(second_large_batch_is_too_much)
    made.train()
    assert 0 < made._train_batch_size < 8
    assert attachment.consistency_passes == 2 * len(logs(made))
    for log in logs(made):
        total = log["task_loss"] + log["consistency_loss"]
        assert total == pytest.approx(log["loss"], rel=1e-3)


def test_sorting_by_length_takes_effect(tmp_path):
    """The other tests would pass if the setting were ignored."""
    model = lora_model("bert")
    made = tiny_trainer(model, tmp_path, train_sampling_strategy="group_by_length")
    assert "LengthGrouped" in type(made._get_train_sampler()).__name__
