import pytest

from model_tables.blocks import misfits, norm_sides
from model_tables.build import build


@pytest.mark.parametrize(
    ("model_type", "task", "module", "side"),
    [
        ("llama", "causal", "model.layers.1.mlp.down_proj", "residual add"),
        ("gemma2", "causal", "model.layers.1.mlp.down_proj", "before post_feedforward_layernorm"),
        ("olmo2", "causal", "model.layers.0.mlp.down_proj", "before post_feedforward_layernorm"),
        (
            "bert",
            "classification",
            "bert.encoder.layer.0.output.dense",
            "residual add, then output.LayerNorm",
        ),
    ],
)
def test_side_of_the_norm(model_type, task, module, side):
    tiny = build(model_type, task)
    before = {name: dict(part._forward_hooks) for name, part in tiny.model.named_modules()}
    assert norm_sides(tiny.model, [module], tiny.batch_right) == {module: side}
    assert tiny.model.training
    assert before == {name: dict(part._forward_hooks) for name, part in tiny.model.named_modules()}


def test_a_module_outside_numbered_layers():
    tiny = build("llama", "causal")
    assert norm_sides(tiny.model, ["lm_head"], tiny.batch_right) == {"lm_head": "residual add"}


def test_the_output_of_a_block_has_its_layers_width():
    tiny = build("mixtral", "causal")
    assert misfits(tiny.model, ["model.layers.0.mlp", "lm_head"], tiny.batch_right) == []


def test_a_router_and_a_projection_inside_a_block_have_not():
    tiny = build("llama", "causal")
    assert misfits(tiny.model, ["model.layers.1.mlp.up_proj"], tiny.batch_right) == [
        "model.layers.1.mlp.up_proj gives 88 features, and its layer works on 64"
    ]
    assert tiny.model.training
    assert not any(module._forward_hooks for module in tiny.model.modules())
