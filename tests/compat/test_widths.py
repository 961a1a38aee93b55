from hiddenkey.compat.build import build
from hiddenkey.compat.widths import misfits


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
