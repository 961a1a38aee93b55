import pytest
from transformers import CONFIG_MAPPING

from model_tables import layers, sizes
from model_tables.configure import small_config
from model_tables.shrink import shrink


@pytest.mark.parametrize(
    ("name", "before", "fields", "after"),
    [
        ("hidden_size", 4096, {}, 64),
        ("n_embd", 768, {}, 64),
        ("intermediate_size", 11008, {}, 88),
        ("num_attention_heads", 32, {}, 4),
        ("num_key_value_heads", 32, {"num_attention_heads": 32}, 4),
        ("num_key_value_heads", 8, {"num_attention_heads": 32}, 2),
        ("num_key_value_heads", 1, {"num_attention_heads": 8}, 1),
        ("head_dim", 128, {}, 16),
        ("head_dim", 64, {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128}, 8),
        ("head_dim", 192, {"qk_rope_head_dim": 64, "qk_nope_head_dim": 128}, 24),
        ("vocab_size", 128256, {}, 128),
        ("kernel_size", 7, {}, 3),
        ("conv_kernel", 4, {}, 4),
        ("kv_lora_rank", 512, {}, 24),
        ("hidden_dropout_prob", 0.1, {}, 0.1),
        ("use_cache", True, {}, True),
        ("num_labels", None, {}, None),
        ("depths", [2, 2, 18, 2], {}, [2, 2, 2, 2]),
        ("out_channels", [256, 512, 1024], {}, [16, 32, 48]),
    ],
)
def test_sizes_follow_the_meaning_of_the_name(name, before, fields, after):
    assert sizes.smaller(name, before, fields) == after


def test_token_ids_stay_in_the_vocabulary_and_apart():
    assert sizes.smaller("eos_token_id", 2, {}) == 2
    assert sizes.smaller("eos_token_id", [128001, 2], {})[1] == 2
    ids = {sizes.smaller(name, 250000, {}) for name in ("image_token_id", "audio_token_id")}
    assert len(ids) == 2
    assert max(ids) < sizes.VOCABULARY


def test_feed_forward_width_cannot_be_taken_for_the_hidden_width():
    for times in (1, 2):  # gate and projection are often one layer
        assert times * sizes.FEED_FORWARD % (sizes.HIDDEN // 2) != 0


def test_first_layer_of_each_kind_is_kept():
    kinds = ["linear", "linear", "full", "linear", "linear", "full"]
    stack = layers.Stack({"num_hidden_layers": 6, "layer_types": kinds, "moe_layers": [4, 5]})
    assert stack.kept == [0, 2, 4, 5]
    assert stack.cut("num_hidden_layers", 6) == 4
    assert stack.cut("layer_types", kinds) == ["linear", "full", "linear", "full"]
    assert stack.cut("moe_layers", [4, 5]) == [2, 3]
    assert stack.cut("hidden_size", 4096) is None


def test_leading_layers_and_shared_last_ones():
    fields = {"num_hidden_layers": 40, "first_k_dense_replace": 3, "num_kv_shared_layers": 10}
    stack = layers.Stack(fields)
    assert stack.kept == [0, 3, 30]
    assert stack.cut("first_k_dense_replace", 3) == 1
    assert stack.cut("num_kv_shared_layers", 10) == 1


def test_periods_become_two_and_repeat():
    stack = layers.Stack({"num_hidden_layers": 32, "attn_layer_period": 8, "attn_layer_offset": 4})
    assert len(stack.kept) == 4
    assert (stack.cut("attn_layer_period", 8), stack.cut("attn_layer_offset", 4)) == (2, 1)


def test_a_list_of_kinds_that_begins_anew():
    blocks = ["recurrent", "recurrent", "attention"]
    stack = layers.Stack({"num_hidden_layers": 26, "block_types": blocks})
    assert stack.cut("block_types", blocks) == ["recurrent", "attention"]


@pytest.mark.parametrize(
    "model_type", ["qwen3_next", "jamba", "gemma3_text", "olmo_hybrid", "zamba2"]
)
def test_hybrids_keep_every_kind_of_layer(model_type):
    whole = CONFIG_MAPPING[model_type]()
    small = shrink(whole)
    name = "layer_types" if hasattr(whole, "layer_types") else "layers_block_type"
    assert set(getattr(small, name)) == set(getattr(whole, name))
    assert small.num_hidden_layers == len(getattr(small, name)) <= 4


def test_experts_keep_dense_layers_beside_them():
    small = shrink(CONFIG_MAPPING["deepseek_v3"]())
    assert 0 < small.first_k_dense_replace < small.num_hidden_layers
    assert small.num_experts_per_tok <= small.n_routed_experts == 4


def test_what_a_composite_says_of_its_parts_stays():
    whole = CONFIG_MAPPING["gemma3"]()
    small = shrink(whole)
    assert small.text_config.hidden_size == small.vision_config.hidden_size == sizes.HIDDEN
    assert small.text_config.hidden_activation == whole.text_config.hidden_activation
    assert small.image_token_index < sizes.VOCABULARY


@pytest.mark.parametrize(
    ("task", "name", "value"),
    [("classification", "num_labels", 3), ("causal", "is_decoder", True)],
)
def test_task_is_in_the_configuration(task, name, value):
    assert getattr(small_config("bert", task), name) == value
