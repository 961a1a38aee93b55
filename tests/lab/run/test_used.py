"""What a run uses at inference: means, the choice on held-out examples, and the temperature."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import BertForSequenceClassification, TrainerCallback

from hiddenkey import ConfigError
from hiddenkey.lab.run import used
from hiddenkey.lab.run.calibration import calibration
from hiddenkey.lab.run.choice import Used, choice_size
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.prediction import classify, load_trained, predict
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.texts import Texts
from hiddenkey.lab.run.training import train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TIMED = ("seconds", "seconds_per_step", "evaluation_seconds")


class Seen(TrainerCallback):
    """Records the trained weights after each step; may break the run off before one."""

    def __init__(self, stop=None):
        self.trajectory, self.stop = [], stop

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.stop:
            raise InterruptedError

    def on_step_end(self, args, state, control, model=None, **_):
        self.trajectory.append(
            {n: p.detach().double().clone() for n, p in model.named_parameters() if p.requires_grad}
        )


def lines(options):
    text = (options.folder / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def without_times(found):
    return [{name: each for name, each in line.items() if name not in TIMED} for line in found]


def weights_in(folder):
    """The weights of an adapter's folder by PEFT's names, as plain PEFT reads them."""
    found = load_file(folder / "adapter_model.safetensors")
    return {name: tensor.double() for name, tensor in found.items()}


def by_peft_names(weights):
    def plain(name):
        return name.replace(".default", "").replace("modules_to_save.", "")

    return {plain(name): tensor for name, tensor in weights.items()}


def assert_close(one, two, **tolerance):
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], **tolerance)


def mean(trajectory):
    return {n: torch.stack([each[n] for each in trajectory]).mean(0) for n in trajectory[0]}


NEAR = {"rtol": 1e-5, "atol": 1e-6}
SAME = {"rtol": 0, "atol": 0}


def test_the_adapter_holds_the_mean_and_the_last_one_is_beside_it(tiny_options):
    seen = Seen()
    options = replace(tiny_options, inference="average", gradient_accumulation=2)
    result = train(options, callbacks=[seen])
    half = seen.trajectory[len(seen.trajectory) // 2 :]
    folder = options.folder / "adapter"
    assert_close(weights_in(folder), by_peft_names(mean(half)), **NEAR)
    assert_close(weights_in(folder / "last"), by_peft_names(seen.trajectory[-1]), **SAME)
    assert result.steps == len(seen.trajectory)
    origin = Origin.load(folder)
    assert origin.inference == Used("average")
    assert Origin.load(folder / "last").inference == Used()
    card = (folder / "README.md").read_text()
    assert "the mean of the last 50% of the steps; those of the last step are in `last/`" in card
    assert lines(options)[-1]["eval_loss"] == pytest.approx(loss_of(options, folder), rel=1e-5)
    assert lines(options)[-1]["eval_loss"] != loss_of(options, folder / "last")


def loss_of(options, folder):
    """The loss on the evaluation examples of what a folder holds."""
    logits, labels = predicted(options, folder, prepare(options).splits.evaluation)
    return float(torch.nn.functional.cross_entropy(logits, labels))


def predicted(options, folder, examples):
    model, tokenizer = load_trained(folder, Origin.load(folder), options)
    logits = classify(model, tokenizer, options, examples).double()
    return logits, torch.tensor([example.label for example in examples])


def test_plain_peft_loads_the_mean(tiny_options, tiny_model):
    options = replace(tiny_options, inference="ema", ema_decay=0.5)
    train(options)
    folder = options.folder / "adapter"
    base = BertForSequenceClassification.from_pretrained(tiny_model, num_labels=3,
                                                         ignore_mismatched_sizes=True)  # fmt: skip
    model = PeftModel.from_pretrained(base, folder).eval()
    ours, tokenizer = load_trained(folder, Origin.load(folder), options)
    tokens = tokenizer(["w1 w2 ant", "bee w7"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**tokens).logits, ours(**tokens).logits)


@pytest.mark.parametrize("inference", ["average", "ema", "chosen"])
def test_a_resumed_run_is_bit_equal(inference, tiny_options, tmp_path):
    options = replace(tiny_options, inference=inference, evaluations=4)
    whole = replace(options, output=str(tmp_path / "whole"))
    train(whole)
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Seen(stop=7)])
    train(replace(options, resume=True))
    assert without_times(lines(options)) == without_times(lines(whole))
    assert_close(
        weights_in(options.folder / "adapter"), weights_in(whole.folder / "adapter"), **SAME
    )
    (options.folder / "result.json").unlink()  # a crash after the last step
    again = train(replace(options, resume=True))
    assert again.metrics == Result.load(whole.folder).metrics
    assert_close(
        weights_in(options.folder / "adapter"), weights_in(whole.folder / "adapter"), **SAME
    )


def test_the_best_evaluation_keeps_its_mean(tiny_options, monkeypatch):
    from hiddenkey.lab.run import recorder

    best = {2: 2, 4: 2, 6: 6, 8: 6}
    monkeypatch.setattr(recorder, "best_step", lambda kept, metric: best[kept[-1]["step"]])
    options = replace(tiny_options, inference="average", keep="best", evaluations=4)
    seen = Seen()
    train(options, callbacks=[seen])
    folder = options.folder / "adapter"
    assert_close(weights_in(folder), by_peft_names(mean(seen.trajectory[4:6])), **NEAR)
    assert_close(weights_in(folder / "last"), by_peft_names(seen.trajectory[5]), **SAME)
    line = next(line for line in lines(options) if line["step"] == 6)
    assert line["eval_loss"] == pytest.approx(loss_of(options, folder), rel=1e-5)


def test_without_a_mean_a_run_is_as_it_was(tiny_options, tmp_path):
    plain, averaged = tiny_options, replace(tiny_options, inference="average")
    found = []
    for number, options in enumerate((plain, averaged)):
        seen = Seen()
        train(replace(options, output=str(tmp_path / str(number))), callbacks=[seen])
        found.append(seen.trajectory)
    for one, other in zip(*found, strict=True):
        assert_close(one, other, **SAME)
    assert not (tmp_path / "0" / "adapter" / "last").exists()
    assert Origin.load(tmp_path / "0" / "adapter").inference == Used()


@pytest.fixture
def overfitting(tiny_options):
    """A run long enough, at a rate large enough, for its last weights to be too sure."""
    return replace(
        tiny_options, method="lora", max_steps=60, learning_rate=3e-2, rank=8, evaluations=2
    )


def test_held_out_examples_choose_and_are_not_trained_on(overfitting, monkeypatch):
    options = replace(overfitting, inference="chosen", choice_share=0.25)
    tried = {}
    choose = used.InferenceWeights._tried

    def watched(self, made, held_out):
        loss, temperature = choose(self, made, held_out)
        tried[len(tried)] = (len(held_out), loss)
        return loss, temperature

    monkeypatch.setattr(used.InferenceWeights, "_tried", watched)
    result = train(options)
    prepared = prepare(options)
    assert not {e.texts for e in prepared.choice} & {e.texts for e in prepared.trained}
    assert {*prepared.choice, *prepared.trained} == {*prepared.splits.train}
    assert not {e.texts for e in prepared.choice} & {e.texts for e in prepared.splits.evaluation}
    last = lines(options)[-1]
    names = ["last", "average", "ema", "scale 0.75", "scale 0.5", "scale 0.25"]
    assert list(last["choice_loss"]) == names
    assert [loss for _, loss in tried.values()] == list(last["choice_loss"].values())
    assert {count for count, _ in tried.values()} == {choice_size(options, result.train_examples)}
    origin = Origin.load(options.folder / "adapter")
    best = min(last["choice_loss"], key=last["choice_loss"].__getitem__)
    assert origin.inference.weights == best
    assert origin.inference.losses == last["choice_loss"]
    assert last["eval_loss"] == pytest.approx(
        loss_of(options, options.folder / "adapter"), rel=1e-5
    )


@pytest.mark.parametrize("name", ["last", "average", "scale 0.5"])
def test_each_choice_is_what_the_folder_holds(name, overfitting, monkeypatch):
    monkeypatch.setattr(
        used.InferenceWeights,
        "_choose",
        lambda self, candidates, rows: Used(name, 1.0, {name: 0.1}),
    )
    seen = Seen()
    options = replace(overfitting, inference="chosen", max_steps=8)
    train(options, callbacks=[seen])
    folder, last = options.folder / "adapter", by_peft_names(seen.trajectory[-1])
    expected = {
        "last": last,
        "average": by_peft_names(mean(seen.trajectory[4:])),
        "scale 0.5": {n: w / 2 if "lora_B" in n else w for n, w in last.items()},
    }[name]
    assert_close(weights_in(folder), expected, **(NEAR if name == "average" else SAME))
    assert (folder / "last").exists() == (name != "last")
    if name != "last":
        assert_close(weights_in(folder / "last"), last, **SAME)


def test_equal_losses_leave_the_last_weights():
    weights = object.__new__(used.InferenceWeights)
    weights._tried = lambda made, rows: (0.5, 1.0)
    assert weights._choose({"last": None, "average": None}, []).weights == "last"


def test_the_temperature_is_of_the_held_out_labels(overfitting):
    options = replace(overfitting, temperature="fitted")
    result = train(options)
    folder, prepared = options.folder / "adapter", prepare(options)
    temperature = Origin.load(folder).inference.temperature
    logits, labels = predicted(options, folder, prepared.choice)
    grid = np.exp(np.linspace(-math.log(20), math.log(20), 2001))
    losses = [float(torch.nn.functional.cross_entropy(logits / t, labels)) for t in grid]
    assert temperature == pytest.approx(grid[int(np.argmin(losses))], rel=0.01)
    assert temperature != 1
    logits, labels = predicted(options, folder, prepared.splits.evaluation)
    after = calibration((logits / temperature).numpy(), labels.numpy())
    line = lines(options)[-1]
    assert line["eval_temperature"] == temperature
    for name in ("ece", "brier"):
        assert line[f"eval_{name}_after_temperature"] == pytest.approx(after[name], rel=1e-4)
    loss = float(torch.nn.functional.cross_entropy(logits / temperature, labels))
    assert line["eval_loss_after_temperature"] == pytest.approx(loss, rel=1e-4)
    assert line["eval_loss"] == pytest.approx(loss_of(options, folder), rel=1e-5)
    assert result.calibration == {
        name: line[f"eval_{name}"]
        for name in ("ece", "brier", "loss_after_temperature", "ece_after_temperature",
                     "brier_after_temperature")
    }  # fmt: skip
    assert Result.load(options.folder).calibration == result.calibration
    assert f"Divide its logits by {temperature:.4g}" in (folder / "README.md").read_text()


def test_predict_divides_by_the_temperature(overfitting):
    options = replace(overfitting, temperature="fitted", max_steps=8)
    train(options)
    folder = options.folder / "adapter"
    origin = Origin.load(folder)
    origin = replace(origin, inference=replace(origin.inference, temperature=4.0))
    examples = prepare(options).splits.evaluation[:5]
    texts = Texts(columns=("text",), examples=examples, labelled=True)
    found = predict(folder, origin, options, texts)
    logits, _ = predicted(options, folder, examples)
    expected = (logits / 4).softmax(-1).max(-1)
    assert [row[1] for row in found.rows] == pytest.approx(expected.values.tolist(), abs=1e-5)


def test_the_data_are_those_of_a_run_without_a_choice(tiny_options):
    """Runs that hold labels out are compared with runs that train on all of them."""
    plain, holding = prepare(tiny_options), prepare(replace(tiny_options, temperature="fitted"))
    assert plain.splits.fingerprint() == holding.splits.fingerprint()
    assert (plain.choice, plain.trained) == ((), plain.splits.train)
    assert len(holding.choice) == choice_size(
        replace(tiny_options, temperature="fitted"), len(plain.splits.train)
    )
    assert holding.data_record()["choice_examples"] == len(holding.choice)


@pytest.mark.parametrize(
    ("settings", "messages"),
    [
        (
            {"inference": "average", "average_part": 0.0},
            ["average_part must be in (0, 1], got 0.0"],
        ),
        ({"inference": "ema", "ema_decay": 1.0}, ["ema_decay must be in (0, 1), got 1.0"]),
        ({"temperature": "fitted", "choice_share": 1.0}, ["choice_share must be in (0, 1)"]),
        (
            {"average_part": 0.2, "ema_decay": 0.9, "choice_share": 0.1},
            [
                "average_part is for inference average and chosen, got 0.2 with inference 'last'",
                "ema_decay is for inference ema and chosen, got 0.9",
                "choice_share is for inference chosen and temperature fitted, got 0.1",
            ],
        ),
        (
            {"inference": "chosen", "keep": "best"},
            ["keep must be 'last' where held-out training examples choose"],
        ),
        ({"temperature": "fitted", "choice_share": 0.001}, ["must leave examples on both sides"]),
    ],
)
def test_wrong_settings_are_all_told(settings, messages, tiny_options):
    with pytest.raises(ConfigError) as refusal:
        prepare(replace(tiny_options, **settings))
    for message in messages:
        assert message in str(refusal.value)


def test_a_regression_has_no_temperature(tiny_options, tmp_path):
    (tmp_path / "own.csv").write_text("text,label\nw1 ant,0.5\nw2 bee,1.5\n" * 8)
    options = replace(
        tiny_options, task="file", train_file=str(tmp_path / "own.csv"), text_columns=("text",),
        regression=True, holdout=0.5, data=None, temperature="fitted", train_size=None,
        eval_size=None,
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"temperature is for classification, .* for regression"):
        prepare(options)
