"""DDP and FSDP2 over two processes: the same training as in one process."""

import pytest
import torch
from torch import distributed

from hiddenkey import Consistency, Drop, DropoutConfig
from models import LAYER_STACK, transformer_in
from parallel.launch import on_processes
from parallel.scenes import (
    Scene,
    assert_same_steps,
    configured,
    part_of_batch,
    shard,
    train_alone,
    train_on_whole_batches,
    train_together,
)

WRAPPERS = {
    "ddp": {"wrapper": "ddp"},
    "fsdp2-before": {"wrapper": "fsdp2"},
    "fsdp2-after": {"wrapper": "fsdp2", "attach": "after"},
    # the model's own weights are gone between the passes, and gathered by its own hooks
    "fsdp2-root": {
        "wrapper": "fsdp2", "attach": "after", "root": "transformer", "reshard": True
    },
}  # fmt: skip
MODELS = {
    "classifier": {},
    "language-model": {"family": "llama", "task": "causal", "lm_loss": "full"},
    "language-model-chunked": {"family": "llama", "task": "causal", "lm_loss": "chunked"},
}
LOSSES = {
    "exact": {},
    "both": {"backward": "both"},
    "fraction": {"fraction": 0.5},
    "every": {"every": 2},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("model", MODELS)
def test_without_noise_processes_train_as_one_on_the_whole_batch(model, wrapper):
    scene = Scene(configured(0.0, weight=2.0), **MODELS[model], **WRAPPERS[wrapper])
    expected = train_on_whole_batches(scene)
    for found in on_processes(train_together, scene):
        assert_same_steps(found, expected)


@pytest.mark.parametrize(
    ("wrapper", "loss"),
    [
        *((wrapper, loss) for wrapper in ("ddp", "fsdp2-root") for loss in LOSSES),
        *((wrapper, "exact") for wrapper in ("fsdp2-before", "fsdp2-after")),
    ],
)
@pytest.mark.parametrize("model", MODELS)
def test_with_noise_each_process_computes_its_part_with_masks_of_its_own(model, wrapper, loss):
    scene = Scene(configured(0.3, **LOSSES[loss]), **MODELS[model], **WRAPPERS[wrapper])
    expected = train_alone(scene)
    for found in on_processes(train_together, scene):
        assert_same_steps(found, expected)


@pytest.mark.parametrize(
    ("pattern", "wrapper"), [("two-sided", "fsdp2-root"), ("adapter", "ddp"), ("rank", "ddp")]
)
def test_noise_on_the_update_with_recomputed_layers_and_a_second_pass(pattern, wrapper):
    config = DropoutConfig((Drop("update", pattern, 0.5),), Consistency())
    scene = Scene(config, checkpointing=True, **MODELS["language-model"], **WRAPPERS[wrapper])
    for found in on_processes(train_together, scene):
        assert_same_steps(found, train_alone(scene))


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2-after"])
@pytest.mark.parametrize("model", ["classifier", "language-model-chunked"])
def test_recomputed_layers_draw_the_same_masks_again(model, wrapper):
    scene = Scene(configured(0.3), checkpointing=True, **MODELS[model], **WRAPPERS[wrapper])
    for found in on_processes(train_together, scene):
        assert_same_steps(found, train_alone(scene))


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_fine_tuning_every_weight_of_a_language_model(wrapper):
    scene = Scene(
        configured(0.3), lora=False, **MODELS["language-model-chunked"], **WRAPPERS[wrapper]
    )
    for found in on_processes(train_together, scene):
        assert_same_steps(found, train_alone(scene))


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2-before", "fsdp2-after"])
def test_noise_in_the_top_layers(wrapper):
    config = configured(0.3, layers=(2, 3))
    scene = Scene(config, layers=4, **MODELS["language-model-chunked"], **WRAPPERS[wrapper])
    for found in on_processes(train_together, scene):
        assert_same_steps(found, train_alone(scene))


def calls_of_the_first_layer(scene: Scene) -> int:
    model = scene.model()
    scene.attached(model)
    if scene.wrapper == "fsdp2":
        shard(model, scene)
    inputs = part_of_batch(scene.task, 0, distributed.get_rank())
    model(**inputs).loss.backward()  # the first pass finds out whether the layers can be shared
    calls = []
    first = transformer_in(model).get_submodule(LAYER_STACK[scene.family])[0]
    first.mlp.register_forward_hook(lambda *_: calls.append(1))
    model(**inputs).loss.backward()
    return len(calls)


@pytest.mark.parametrize(("wrapper", "calls"), [("ddp", 1), ("fsdp2-before", 2)])
def test_sharded_layers_run_in_both_passes(wrapper, calls):
    # a shared output would let the backward pass gather all layers below it at once
    scene = Scene(configured(0.3, layers=(1,)), **MODELS["language-model"], **WRAPPERS[wrapper])
    assert on_processes(calls_of_the_first_layer, scene) == [calls, calls]


def local_share(scene: Scene) -> float:
    model = scene.model()
    shard(model, scene)
    weights = [p for p in model.parameters() if p.dim() == 2 and p.shape[0] % 2 == 0]
    local = sum(weight.to_local().numel() for weight in weights)
    return local / sum(weight.numel() for weight in weights)


def test_the_processes_did_shard():
    assert on_processes(local_share, Scene(configured(0.1), wrapper="fsdp2")) == [0.5, 0.5]


def fail_alone() -> None:
    if distributed.get_rank() == 1:
        raise ValueError("only here")
    distributed.all_reduce(torch.zeros(1))


def wait_alone() -> None:
    if distributed.get_rank() == 1:
        distributed.all_reduce(torch.zeros(1))


def test_a_failure_in_one_process_is_told():
    with pytest.raises(AssertionError, match=r"process 1 failed(.|\n)*only here"):
        on_processes(fail_alone)


def test_processes_that_wait_for_each_other_are_ended():
    with pytest.raises(AssertionError, match=r"processes \[1\] did not end in time"):
        on_processes(wait_alone, limit=12.0)  # on a busy machine the other one takes seconds
