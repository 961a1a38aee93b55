"""A sample of the sweep: families that differ in how they attend, feed forward and are trained."""

import pytest

from model_tables.examine import examine
from model_tables.model_types import tasks_of

PASSING = [
    "llama",
    "gpt2",
    "bloom",  # attention of its own
    "gemma2",  # norm behind the block, soft-capped logits
    "deepseek_v3",  # latent attention, dense layers and experts
    "gpt_oss",  # attention sinks
    "qwen3_next",  # linear attention in between
    "jamba",  # Mamba in between
    "bert",
    "deberta-v2",  # relative positions
    "t5",
    "bart",
    "whisper",  # cross-attention to states from outside
    "gemma3",  # several modalities, text alone
    "vit",
]


@pytest.mark.parametrize("model_type", PASSING)
def test_passes(model_type):
    row = examine(model_type, tasks_of(model_type)[0])
    assert (row.verdict, row.reason) == ("pass", "")
    assert row.hidden_layers == row.layers > 0
    assert row.attention_layers == row.layers or row.gaps
    assert set(row.attention) <= {"fused", "reference", "intercepted"}
    assert row.adapted


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("mamba", "computes no softmax"),
        ("fnet", "hidden drops alone can be attached"),
    ],
)
def test_refused_with_a_reason_of_its_own(model_type, reason):
    row = examine(model_type, tasks_of(model_type)[0])
    assert row.verdict == "refused"
    assert reason in row.reason
    assert "\n" not in row.reason


def test_cannot_be_built():
    row = examine("gemma4_assistant", "causal")
    assert (row.verdict, row.layers) == ("cannot be built", 0)
    assert "takes no labels" in row.reason
