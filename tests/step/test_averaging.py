"""The mean of a model's weights, and the scaled update, in loops of one's own."""

import copy

import pytest
import torch
from peft import IA3Config, LoraConfig, TaskType, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hiddenkey import AttachError, ConfigError, Inference, WeightAverage, scale_update
from hiddenkey.step.scaling import scaled_update
from integrations.trainers import assert_same_weights, weights
from models import batch, lora_model, plain_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

AVERAGE, EMA = Inference("average"), Inference("ema", decay=0.8)


def trained(average, model, steps):
    """Move the weights at random, as an optimiser would; return all that there were."""
    trajectory = []
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p))
        average.update()
        trajectory.append({n: w.double() for n, w in weights(model).items()})
    return trajectory


def mean(trajectory, shares):
    total = sum(shares)
    return {
        name: sum(s * each[name] for s, each in zip(shares, trajectory, strict=True)) / total
        for name in trajectory[0]
    }


@pytest.mark.parametrize("rule", [AVERAGE, EMA], ids=["average", "ema"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_mean_is_that_of_the_recorded_weights(rule, dtype):
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).to(dtype)
    model[0].bias.requires_grad_(False)
    average = WeightAverage(model, rule, steps=10)
    trajectory = trained(average, model, 10)
    shares = [0] * 5 + [1] * 5 if rule is AVERAGE else [0.8 ** (10 - t) for t in range(1, 11)]
    expected = mean(trajectory, shares)
    last = weights(model)
    with average.applied():
        found = {n: w.double() for n, w in weights(model).items()}
    own = {torch.float32: 1e-6, torch.float64: 1e-13, torch.bfloat16: 2**-7}[dtype]
    assert_same_weights(found, expected, rtol=own, atol=own)
    assert_same_weights(weights(model), last, rtol=0, atol=0)
    assert (average.step, average.count) == (10, 5 if rule is AVERAGE else 10)


def test_bfloat16_weights_have_their_mean_in_float32():
    """A mean in bfloat16 would stand still after 256 steps: 1/256 of it is lost in rounding."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    average = WeightAverage(model, Inference("average", part=1))
    for step in range(1024):
        with torch.no_grad():
            model.weight.fill_(float(step % 4))
        average.update()
    with average.applied():
        assert model.weight.item() == 1.5


def test_it_is_put_into_the_model_for_good_and_taken_out():
    model = lora_model("bert")
    average = WeightAverage(model, EMA)
    trajectory = trained(average, model, 3)
    last, expected = weights(model), mean(trajectory, [0.64, 0.8, 1])
    average.apply()
    average.apply()
    with average.applied():  # a block in between leaves it as it was
        pass
    found = {n: w.double() for n, w in weights(model).items()}
    assert_same_weights(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(AttachError, match="call restore"):
        average.update()
    average.restore()
    average.restore()
    assert_same_weights(weights(model), last, rtol=0, atol=0)


def test_the_last_weights_come_back_after_an_error():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, EMA)
    trained(average, model, 3)
    last = weights(model)
    with pytest.raises(KeyError), average.applied():
        raise KeyError
    assert_same_weights(weights(model), last, rtol=0, atol=0)


def test_before_its_part_begins_the_last_weights_are_all_there_is():
    model = nn.Linear(2, 2)
    average = WeightAverage(model, AVERAGE, steps=100)
    trained(average, model, 50)
    last = weights(model)
    with average.applied():
        assert_same_weights(weights(model), last, rtol=0, atol=0)
    assert average.count == 0


class _Allocated(TorchDispatchMode):
    """Bytes of new tensors."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {id(each) for each in torch.utils._pytree.tree_leaves((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for each in torch.utils._pytree.tree_leaves(out):
            if isinstance(each, torch.Tensor) and id(each) not in given and each._base is None:
                self.bytes += each.numel() * each.element_size()
        return out


def test_it_keeps_one_float32_copy_and_allocates_nothing_a_step():
    model = lora_model("bert")
    average = WeightAverage(model, AVERAGE, steps=4)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    found = []
    for _ in range(4):
        with _Allocated() as seen:
            average.update()
        found.append(seen.bytes)
    assert found == [0, 0, 4 * trainable, 0]


def test_it_goes_on_from_a_file_bit_by_bit(tmp_path):
    for rule in (AVERAGE, EMA):
        model = lora_model("bert")
        average = WeightAverage(model, rule, steps=8)
        for steps in (2, 4):  # before and after the average begins
            trained(average, model, steps)
            average.save(tmp_path / "mean.safetensors")
            other = copy.deepcopy(model)
            resumed = WeightAverage(other, rule, steps=8)
            resumed.load(tmp_path / "mean.safetensors")
            for each in (average, resumed):
                torch.manual_seed(1)
                trained(each, other if each is resumed else model, 2)
            for each in (average, resumed):
                each.apply()
            assert_same_weights(weights(model), weights(other), rtol=0, atol=0)
            average.restore()
            average = WeightAverage(model, rule, steps=8)
            average.load(tmp_path / "mean.safetensors")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ((Inference("average", part=0.25), 4), "same mean and model, it is of .*'part': 0.5"),
        ((Inference("average"), 8), "'first': 3"),
        ((EMA, None), "'weights': 'average'"),
    ],
)
def test_a_file_of_another_mean_is_refused(tmp_path, other, message):
    model = nn.Linear(2, 2)
    average = WeightAverage(model, AVERAGE, steps=4)
    trained(average, model, 4)
    average.save(tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match=message):
        WeightAverage(model, *other).load(tmp_path / "mean.safetensors")
    with pytest.raises(ConfigError, match="other weights"):
        WeightAverage(nn.Linear(3, 2), AVERAGE, 4).load(tmp_path / "mean.safetensors")
    (tmp_path / "mean.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(ConfigError, match="cannot be read"):
        WeightAverage(model, AVERAGE, 4).load(tmp_path / "mean.safetensors")


@pytest.mark.parametrize("about", [None, "{}", "[]", "3", "no JSON"])
def test_a_file_of_something_else_is_refused(tmp_path, about):
    path = tmp_path / "other.safetensors"
    average = WeightAverage(nn.Linear(2, 2), AVERAGE, steps=4)
    average.save(path)
    with safe_open(str(path), "pt") as file:
        (name,) = file.metadata()
    save_file({}, str(path), {"format": "pt"} if about is None else {name: about})
    with pytest.raises(ConfigError, match="cannot be read"):
        average.load(path)


@pytest.mark.parametrize("rule", [AVERAGE, EMA], ids=["average", "ema"])
def test_weights_that_are_trained_later_are_refused(rule):
    """The mean of some beside the last of others is of a model that there never was."""
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    model[1].requires_grad_(False)
    average = WeightAverage(model, rule, steps=2)
    average.update()
    model[0].requires_grad_(False)  # what is no longer trained has a mean all the same
    average.update()
    model[1].requires_grad_(True)
    with pytest.raises(AttachError, match=r"1\.weight is trained now and was not when the mean"):
        average.update()


def test_what_has_no_mean_is_refused():
    with pytest.raises(AttachError, match="no weight of the model is trained"):
        WeightAverage(nn.Linear(2, 2).requires_grad_(False), EMA)
    model = nn.Linear(2, 2)
    model.weight.ds_id = 0
    with pytest.raises(AttachError, match="sharded over processes"):
        WeightAverage(model, EMA)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_scaled_update_lies_between_the_frozen_weights_and_the_trained(family):
    """W(f) = W₀ + f (W − W₀) for every weight that LoRA changes, in float64."""
    model = lora_model(family).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_()
    merged = {factor: merged_weights(model, factor) for factor in (0.0, 0.25, 1.0)}
    moved = 0
    for name, start in merged[0.0].items():
        expected = start + 0.25 * (merged[1.0][name] - start)
        torch.testing.assert_close(merged[0.25][name], expected, rtol=1e-12, atol=1e-12)
        moved += not torch.equal(start, merged[1.0][name])
    assert moved >= 2
    original = plain_model(family).double().state_dict()
    assert any(torch.equal(merged[0.0][name], original[name]) for name in original)


def merged_weights(model, factor):
    one = copy.deepcopy(model)
    scale_update(one, factor)
    return one.merge_and_unload().state_dict()


def test_the_update_comes_back_after_the_block():
    model = lora_model("bert")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.normal_()
    before, inputs = weights(model), batch("classification", "right")
    model.eval()
    whole = model(**inputs).logits
    with scaled_update(model, 0.0), model.disable_adapter():
        frozen = model(**inputs).logits
    with scaled_update(model, 0.0):
        torch.testing.assert_close(model(**inputs).logits, frozen)
    assert not torch.allclose(whole, frozen)
    assert_same_weights(weights(model), before, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [-0.1, 1.1, True, "1", float("nan")])
def test_a_factor_is_from_0_to_1(factor):
    with pytest.raises(ConfigError, match=r"must be in \[0, 1\]"):
        scale_update(lora_model("bert"), factor)


def with_adapter(config):
    return get_peft_model(plain_model("bert"), config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LoraConfig(task_type=TaskType.SEQ_CLS, use_dora=True), "DoRA divides"),
        (LoraConfig(task_type=TaskType.SEQ_CLS, init_lora_weights="pissa"), "moved part"),
        (IA3Config(task_type=TaskType.SEQ_CLS), "no LoRA that is trained"),
    ],
)
def test_an_update_that_b_does_not_scale_is_refused(config, message):
    with pytest.raises(AttachError, match=message):
        scale_update(with_adapter(config), 0.5)


@pytest.mark.parametrize("is_moving", [True, False])
def test_running_statistics_that_move_are_told(is_moving, caplog):
    """They belong to the last weights, so that the mean's predictions can be far off."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model[1].train(is_moving)
    average = WeightAverage(model, AVERAGE, steps=4)
    trained(average, model, 4)
    told = [record for record in caplog.records if "update_bn" in record.getMessage()]
    assert len(told) == is_moving


@pytest.mark.parametrize(
    ("family", "task", "settings", "name"),
    [
        ("bert", "classification", {"bias": "lora_only"}, "query.base_layer.bias"),
        ("bert", "classification", {"modules_to_save": ["word_embeddings"]}, "word_embeddings"),
        ("llama", "causal", {"modules_to_save": ["lm_head"]}, "lm_head"),
    ],
)
def test_an_update_beside_other_pretrained_weights_is_not_scaled(family, task, settings, name):
    kind = TaskType.CAUSAL_LM if task == "causal" else TaskType.SEQ_CLS
    model = get_peft_model(plain_model(family, task), LoraConfig(task_type=kind, **settings))
    with pytest.raises(AttachError, match=rf"{name}\S* is trained beside LoRA"):
        scale_update(model, 0.5)
