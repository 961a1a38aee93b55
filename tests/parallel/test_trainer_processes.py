"""transformers' Trainer and accelerate over two processes: training, logs and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from transformers import Trainer, TrainingArguments

import hiddenkey
from hiddenkey import Consistency, DropoutConfig
from hiddenkey.anatomy.sharding import is_sharded
from hiddenkey.integrations.callback import HiddenKeyCallback
from hiddenkey.integrations.trainer import watch
from models import batch, lora_model
from parallel.launch import on_processes
from parallel.scenes import SEED, Scene, configured, part_of_batch, train_alone, whole

MODELS = {"classification": "bert", "causal": "llama"}
# accelerate would also take BERT's embeddings, and then shard what is in them twice
LAYERS = {"classification": "BertLayer", "causal": "LlamaDecoderLayer"}


def fsdp2(task: str) -> dict[str, Any]:
    """Return Trainer's settings for FSDP2."""
    config = {
        "fsdp_version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": [LAYERS[task]],
        "reshard_after_forward": True,
    }
    return {"fsdp": True, "fsdp_config": config}


def examples(task: str, count: int = 32) -> list[dict[str, Tensor]]:
    inputs = batch(task, size=count)
    return [{name: value[row] for name, value in inputs.items()} for row in range(count)]


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def let_accelerate_shard() -> None:
    """Let accelerate look at FSDP's settings, which it leaves aside on CPUs."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def run(folder: Path, task: str, config: DropoutConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Train for four steps of eight examples in all, with a checkpoint after two."""
    model = lora_model(MODELS[task], task, feed_forward=True)
    callback = HiddenKeyCallback(config) if settings.pop("by_callback", False) else None
    attachment = hiddenkey.attach(model, config) if callback is None else None
    resume = settings.pop("resume", None)
    defaults = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "save_steps": 2,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 5,
        "dataloader_pin_memory": False,
        "lr_scheduler_type": "constant",
    }
    arguments = TrainingArguments(**{**defaults, **settings})
    if "fsdp" in settings:
        let_accelerate_shard()
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=examples(task),
        data_collator=collate,
        callbacks=[callback] if callback else None,
    )
    if task == "classification":  # its loss is a mean; see docs/DECISIONS.md
        trainer.model_accepts_loss_kwargs = False
    if attachment is not None:
        watch(trainer, attachment)
    trainer.train(resume_from_checkpoint=resume)
    trained = trainer.accelerator.unwrap_model(trainer.model_wrapped)
    return {
        "weights": whole({n: p for n, p in trained.named_parameters() if p.requires_grad}),
        "logs": [line for line in trainer.state.log_history if "loss" in line],
        "passes": attachment.consistency_passes if attachment else None,
        "sharded": any(is_sharded(module) for module in trained.modules()),
    }


ALONE = {"per_device_train_batch_size": 8}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
@pytest.mark.parametrize("task", MODELS)
def test_without_noise_trainer_trains_as_one_process(task, wrapper, accumulation, tmp_path):
    config = configured(0.0)
    expected = run(tmp_path / "alone", task, config, dict(ALONE))
    settings = {} if wrapper == "ddp" else fsdp2(task)
    settings["gradient_accumulation_steps"] = accumulation
    settings["per_device_train_batch_size"] = 4 // accumulation
    for found in on_processes(run, tmp_path / "both", task, config, settings):
        assert found["sharded"] == (wrapper == "fsdp2")
        torch.testing.assert_close(found["weights"], expected["weights"])
        assert found["passes"] == 4 * accumulation
        for line, other in zip(found["logs"], expected["logs"], strict=True):
            for name in ("loss", "task_loss", "consistency_loss"):
                assert line[name] == pytest.approx(other[name], abs=1e-4)


@pytest.mark.parametrize(
    ("task", "wrapper"), [("classification", "ddp"), ("causal", "ddp"), ("causal", "fsdp2")]
)
def test_predictions_of_an_epoch_reach_the_process_that_needs_them(task, wrapper, tmp_path):
    """In each epoch the sampler deals 32 examples anew, 16 to each of two processes."""
    config = DropoutConfig(consistency=Consistency(target="history", weight=2.0))
    steps = {"max_steps": 10, "save_strategy": "no"}
    expected = run(tmp_path / "alone", task, config, {**ALONE, **steps})
    assert min(line["consistency_loss"] for line in expected["logs"][4:]) > 1e-4
    settings = steps if wrapper == "ddp" else {**steps, **fsdp2(task)}
    for found in on_processes(run, tmp_path / "both", task, config, dict(settings)):
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=1e-4, atol=1e-5)
        for line, other in zip(found["logs"], expected["logs"], strict=True):
            assert line["consistency_loss"] == pytest.approx(other["consistency_loss"], abs=1e-4)


def test_kept_predictions_of_two_processes_are_resumed_from(tmp_path):
    task = "causal"
    config = DropoutConfig(consistency=Consistency(target="history"))
    steps = {"max_steps": 10, "save_steps": 6}
    expected, _ = on_processes(run, tmp_path, task, config, dict(steps))
    kept = tmp_path / "checkpoint-6"
    assert len(list(kept.glob("hiddenkey_history_*.safetensors"))) == 2
    resumed = {**steps, "resume": str(kept)}
    for found in on_processes(run, tmp_path / "again", task, config, dict(resumed)):
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=0)
    alone = run(tmp_path / "alone", task, config, {**resumed, **ALONE})
    torch.testing.assert_close(alone["weights"], expected["weights"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", MODELS)
def test_logs_are_means_over_the_processes(task, tmp_path):
    one, other = on_processes(run, tmp_path, task, configured(0.3, weight=2.0), {})
    assert len(one["logs"]) == 4
    for line, same in zip(one["logs"], other["logs"], strict=True):
        assert line == same
        assert line["consistency_loss"] > 0.01
        total = line["task_loss"] + line["consistency_loss"]
        assert total == pytest.approx(line["loss"], abs=1e-4)
        assert 0.2 < line["dropped/hidden"] < 0.4


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_a_run_of_two_processes_resumes_exactly_on_two(wrapper, tmp_path):
    task = "classification"
    settings = {} if wrapper == "ddp" else fsdp2(task)
    config = configured(0.3, every=3)
    whole_run, _ = on_processes(run, tmp_path, task, config, dict(settings))
    resumed = {**settings, "resume": str(tmp_path / "checkpoint-2")}
    for found in on_processes(run, tmp_path / "again", task, config, resumed):
        assert found["passes"] == 4
        torch.testing.assert_close(found["weights"], whole_run["weights"], rtol=0, atol=0)
        for line, other in zip(found["logs"], whole_run["logs"], strict=True):
            assert line == other


@pytest.mark.parametrize("task", MODELS)
def test_a_run_of_two_processes_resumes_on_one(task, tmp_path):
    config = configured(0.0, every=3)
    expected, _ = on_processes(run, tmp_path, task, config, {})
    resumed = {**ALONE, "resume": str(tmp_path / "checkpoint-2")}
    found = run(tmp_path / "again", task, config, resumed)
    assert found["passes"] == expected["passes"] == 4
    torch.testing.assert_close(found["weights"], expected["weights"])
    assert found["logs"][:2] == expected["logs"][:2]


@pytest.mark.parametrize("task", MODELS)
def test_a_run_of_one_process_goes_on_with_two(task, tmp_path):
    config = configured(0.0)
    expected = run(tmp_path, task, config, dict(ALONE))
    resumed = {"resume": str(tmp_path / "checkpoint-2")}
    for found in on_processes(run, tmp_path / "again", task, config, resumed):
        torch.testing.assert_close(found["weights"], expected["weights"])


def test_a_sharded_run_of_two_processes_resumes_sharded_on_one(tmp_path):
    config, task = configured(0.0), "classification"
    expected, _ = on_processes(run, tmp_path, task, config, fsdp2(task))
    resumed = {**fsdp2(task), **ALONE, "resume": str(tmp_path / "checkpoint-2")}
    (found,) = on_processes(run, tmp_path / "again", task, config, resumed, count=1)
    torch.testing.assert_close(found["weights"], expected["weights"])


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_a_callback_attaches_to_a_model_that_is_wrapped_already(wrapper, tmp_path):
    task, config = "causal", configured(0.3)
    settings = {} if wrapper == "ddp" else fsdp2(task)
    expected, _ = on_processes(run, tmp_path / "watched", task, config, dict(settings))
    given = {**settings, "by_callback": True}
    for found in on_processes(run, tmp_path / "called", task, config, given):
        assert found["sharded"] == (wrapper == "fsdp2")
        torch.testing.assert_close(found["weights"], expected["weights"], rtol=0, atol=0)
        assert found["logs"] == expected["logs"]


def writers(folder: Path) -> int:
    """Train while counting this process's own writes of the configuration."""
    saved = []
    DropoutConfig.save_pretrained = lambda self, path: saved.append(path)  # type: ignore[method-assign]
    run(folder, "classification", configured(0.1), {})
    return len(saved)


def test_the_first_process_alone_writes_the_configuration(tmp_path):
    assert on_processes(writers, tmp_path) == [2, 0]


def test_the_checkpoint_of_two_processes_holds_the_configuration(tmp_path):
    config = configured(0.1)
    on_processes(run, tmp_path, "classification", config, {})
    assert DropoutConfig.from_pretrained(tmp_path / "checkpoint-2") == config


def accelerated(scene: Scene, sharded: bool, recomputed: bool = False) -> dict[str, Any]:
    """A loop of one's own with accelerate, two steps."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    settings: dict[str, Any] = {"cpu": True}
    if sharded:
        let_accelerate_shard()
        settings["fsdp_plugin"] = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=[LAYERS[scene.task]],
            reshard_after_forward=True,
            activation_checkpointing=recomputed,
        )
    accelerator = Accelerator(**settings)
    model = scene.model()
    attachment = scene.attached(model)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model, optimizer = accelerator.prepare(model, optimizer)
    torch.manual_seed(SEED)
    for step in range(2):
        loss = model(**part_of_batch(scene.task, step, distributed.get_rank())).loss
        if scene.task == "causal":
            loss = loss * accelerator.num_processes
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    model = accelerator.unwrap_model(model)
    assert any(is_sharded(module) for module in model.modules()) == sharded
    weights = whole({n: p for n, p in model.named_parameters() if p.requires_grad})
    return {"weights": weights, "summary": str(attachment)}


@pytest.mark.parametrize("sharded", [False, True], ids=["ddp", "fsdp2"])
@pytest.mark.parametrize("task", MODELS)
def test_an_accelerate_loop_trains_as_one_process(task, sharded):
    scene = Scene(configured(0.3), MODELS[task], task)
    expected = train_alone(scene)[-1].weights
    for found in on_processes(accelerated, scene, sharded):
        torch.testing.assert_close(found["weights"], expected)


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full"])
def test_the_loss_is_chunked_where_accelerate_shards_the_head(lora):
    scene = Scene(configured(0.3), "llama", "causal", lm_loss="chunked", lora=lora)
    expected = train_alone(scene)[-1].weights
    for found in on_processes(accelerated, scene, True):
        assert "chunked" in found["summary"]
        torch.testing.assert_close(found["weights"], expected)


def test_layers_that_accelerate_recomputes_without_their_numbers_are_refused():
    scene = Scene(configured(0.3), "llama", "causal")
    message = r"AttachError: .*preserve_rng_state=False .*\(accelerate's FSDP checkpointing sets it"
    with pytest.raises(AssertionError, match=message):
        on_processes(accelerated, scene, True, True)
