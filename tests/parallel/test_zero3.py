"""DeepSpeed ZeRO-3 over two processes, where DeepSpeed is installed; it works on CPUs too."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from parallel.launch import on_processes
from parallel.scenes import PROCESSES, SEED, Scene, configured, part_of_batch, train_alone

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")

LANGUAGE_MODEL: dict[str, Any] = {"family": "llama", "task": "causal"}
SCENES = {
    "classifier": Scene(configured(0.3)),
    "attached-after": Scene(configured(0.3), attach="after"),
    "every": Scene(configured(0.3, every=2), lm_loss="full", **LANGUAGE_MODEL),
    "top-layers": Scene(configured(0.3, layers=(2, 3)), layers=4, **LANGUAGE_MODEL),
    "recomputed": Scene(configured(0.3), checkpointing=True, **LANGUAGE_MODEL),
}
CONFIG = {
    "train_micro_batch_size_per_gpu": 4,
    "gradient_clipping": 0.0,  # 1 otherwise
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
    "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
}


def train(scene: Scene) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Return the loss over all processes and the weights of each of two steps."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    model = scene.model()
    if scene.attach == "before":
        scene.attached(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.SGD(trained, lr=0.1), config=CONFIG
    )
    if scene.attach == "after":
        scene.attached(model)
    torch.manual_seed(SEED)
    found = []
    for step in range(2):
        loss = engine(**part_of_batch(scene.task, step, distributed.get_rank())).loss
        if scene.task == "causal":
            loss = loss * PROCESSES
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        distributed.all_reduce(total)
        weights = {
            name: safe_get_full_fp32_param(parameter).clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        found.append((total / PROCESSES, weights))
    return found


@pytest.mark.parametrize("scene", SCENES)
def test_each_process_computes_its_part_with_masks_of_its_own(scene):
    expected = train_alone(SCENES[scene])
    for steps in on_processes(train, SCENES[scene], limit=200.0):
        for (loss, weights), step in zip(steps, expected, strict=True):
            torch.testing.assert_close(loss, step.loss)
            torch.testing.assert_close(weights, step.weights, rtol=1e-4, atol=1e-5)


def test_a_head_whose_weights_are_shared_out_keeps_its_logits():
    scene = Scene(configured(0.3), lm_loss="chunked", **LANGUAGE_MODEL)
    with pytest.raises(AssertionError, match="its head's weights are no plain tensors, but shard"):
        on_processes(train, scene, limit=200.0)
