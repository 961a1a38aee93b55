import pytest

from hiddenkey.compat.build import build
from hiddenkey.compat.norms import norm_sides


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
