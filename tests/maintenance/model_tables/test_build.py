import pytest
import torch

from model_tables import model_types as types
from model_tables.batch import LABELS, SEQUENCES
from model_tables.build import BuildError, build
from model_tables.sizes import VOCABULARY

DIVERSE = {
    "llama": "causal",
    "gpt2": "causal",
    "gpt_neo": "causal",
    "falcon_mamba": "causal",
    "deepseek_v3": "causal",
    "gemma3": "causal",
    "whisper": "causal",
    "t5": "seq2seq",
    "encoder-decoder": "seq2seq",
    "deberta-v2": "classification",
    "reformer": "classification",
    "vit": "image",
    "swin": "image",
}


@pytest.mark.filterwarnings("ignore:Version v4.12.0 introduces a better way:FutureWarning")
@pytest.mark.parametrize(("model_type", "task"), DIVERSE.items())
def test_a_tiny_model_that_trains(model_type, task):
    tiny = build(model_type, task)
    assert types.tasks_of(model_type)[0] == task
    assert tiny.parameters < 1_000_000
    assert all(p.dtype == torch.float32 for p in tiny.model.parameters() if p.is_floating_point())
    assert all(torch.isfinite(p).all() for p in tiny.model.parameters())
    linears = [tiny.model.get_submodule(name) for name in tiny.targets]
    assert linears
    head = tiny.model.get_output_embeddings() if task in ("causal", "seq2seq") else None
    assert head not in linears
    for batch in (tiny.batch_right, tiny.batch_left):
        loss = tiny.model(**batch).loss
        loss.backward()
        assert torch.isfinite(loss)
    assert all(torch.isfinite(linear.weight.grad).all() for linear in linears)


@pytest.mark.parametrize("task", ["causal", "classification"])
def test_batches_are_padded_on_either_side(task):
    tiny = build("bert", task)
    right, left = tiny.batch_right, tiny.batch_left
    ids, mask = right["input_ids"], right["attention_mask"]
    assert mask[0].all()
    assert mask[-1].sum() == 12
    assert torch.equal(mask.flip(-1), left["attention_mask"])
    assert torch.all(ids[mask == 0] == tiny.model.config.pad_token_id)
    assert ids.max() < VOCABULARY
    if task == "causal":
        assert torch.all(right["labels"][mask == 0] == -100)
        assert torch.all(left["labels"][left["attention_mask"].cumsum(-1) == 1] == -100)
    else:
        assert right["labels"].shape == (SEQUENCES,)
        assert right["labels"].max() < LABELS


def test_source_and_target_differ_in_length():
    batch = build("t5", "seq2seq").batch_right
    assert batch["labels"].shape[1] != batch["input_ids"].shape[1]
    assert (batch["labels"] == -100).any()


def test_the_same_model_each_time():
    one, two = (build("mixtral", "causal").model for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])


def test_global_randomness_is_left_alone():
    before = torch.get_rng_state()
    build("bert", "classification")
    assert torch.equal(before, torch.get_rng_state())


def test_experts_and_routers_get_no_adapter():
    targets = build("mixtral", "causal").targets
    assert targets
    assert not any("experts" in name or name.endswith("gate") for name in targets)


def test_a_type_without_a_loss_says_so():
    with pytest.raises(BuildError, match="takes no labels, so it has no loss to train on"):
        build("gemma4_assistant", "causal")


def test_the_error_of_a_model_is_its_reason():
    with pytest.raises(BuildError, match=r"step: ValueError: You must specify exactly one of"):
        build("voxtral_realtime", "seq2seq")


@pytest.mark.parametrize(
    ("model_type", "tasks"),
    [
        ("llama", ["causal", "classification"]),
        ("bart", ["seq2seq", "causal", "classification"]),
        ("bert", ["classification", "causal"]),
        ("vit", ["image"]),
    ],
)
def test_main_task_comes_first(model_type, tasks):
    assert types.tasks_of(model_type) == tasks


def test_every_type_has_a_task():
    text = set(types.all_types(types.TEXT_TASKS))
    assert len(text) > 200
    assert text < set(types.all_types())
