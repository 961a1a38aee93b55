import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import TrainerCallback

import hiddenkey
from hiddenkey import ConfigError
from hiddenkey.errors import DivergedError
from hiddenkey.lab.run import building, recorder, training
from hiddenkey.lab.run.calibration import CALIBRATION
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.recorder import Observer
from hiddenkey.lab.run.result import Result
from hiddenkey.lab.run.training import train

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Batches(TrainerCallback):
    """Records the weights at the start and every batch that reaches the model in training mode."""

    def __init__(self):
        self.weights = {}
        self.batches = []

    def on_train_begin(self, args, state, control, model=None, **_):
        self.weights = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }
        # the first module of the network: the consistency loss runs it twice a step
        model.get_input_embeddings().register_forward_pre_hook(self._see)

    def _see(self, module, arguments):
        if module.training:
            self.batches.append(arguments[0].clone())


class Stop(TrainerCallback):
    """Breaks a run off in the middle of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise InterruptedError(f"stopped at step {self.step}")


def read(folder, name):
    return json.loads((Path(folder) / name).read_text())


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def adapter(folder):
    return load_file(Path(folder) / "adapter" / "adapter_model.safetensors")


def without_times(record):
    timed = ("seconds", "seconds_per_step", "evaluation_seconds", "peak_memory_mib")
    return {name: value for name, value in record.items() if name not in timed}


def assert_same_weights(left, right, **tolerance):
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], **(tolerance or {"rtol": 0, "atol": 0}))


def test_run_folder_holds_everything(tiny_options):
    result = train(tiny_options)
    folder = Path(tiny_options.output)
    assert Result.load(folder) == result
    assert yaml.safe_load((folder / "config.yaml").read_text()) == tiny_options.recorded()
    versions = read(folder, "environment.json")
    assert versions["torch"] == torch.__version__
    assert {"python", "transformers", "peft", "hiddenkey", "platform", "cpus"} <= set(versions)
    sites = read(folder, "sites.json")
    assert [(s["layer"], s["position"]) for s in sites] == [
        (0, "attention_logits"), (1, "attention_logits"), (0, "hidden"), (1, "hidden"),
    ]  # fmt: skip
    names = {path.name for path in (folder / "adapter").iterdir()}
    assert {"adapter_config.json", "tokenizer.json", "hiddenkey_config.json"} <= names
    stored = hiddenkey.DropoutConfig.from_pretrained(folder / "adapter")
    assert stored == hiddenkey.method("hiddenkey")
    checkpoint = folder / "checkpoints" / "checkpoint-8"
    assert hiddenkey.DropoutConfig.from_pretrained(checkpoint) == stored
    assert not list(folder.rglob(".*")), "no half-written file stays"


def test_each_evaluation_is_a_line_with_losses_shares_and_times(tiny_options):
    train(replace(tiny_options, rates={"hidden": 0.5}, log_every=3))
    found = lines(tiny_options.output)
    assert [(line["step"], line["epoch"]) for line in found] == [(4, 1.0), (8, 2.0)]
    for line in found:
        parts = line["task_loss"] + line["consistency_loss"]
        assert line["train_loss"] == pytest.approx(parts, rel=1e-4)
        assert line["consistency_loss"] > 0
        assert set(line["dropped"]) == {"attention_logits", "hidden"}
        assert line["dropped"]["hidden"] == pytest.approx(0.5, abs=0.05)
        for name in ("loss", "accuracy", "f1_macro", "matthews", *CALIBRATION):
            assert line[f"eval_{name}"] is not None
            assert line[f"train_sample_{name}"] is not None
        assert 1 / 3 <= line["eval_confidence"] <= 1
        assert line["eval_ece"] >= abs(line["eval_confidence"] - line["eval_accuracy"]) - 1e-9
        assert line["seconds_per_step"] > 0
    assert found[0]["seconds"] < found[1]["seconds"]


def test_result_sums_up_the_lines(tiny_options):
    result = train(tiny_options)
    first, last = lines(tiny_options.output)
    assert set(result.metrics) == {"accuracy", "f1_macro", "matthews"}
    accuracy = result.metrics["accuracy"]
    assert accuracy.best == max(first["eval_accuracy"], last["eval_accuracy"])
    assert accuracy.last == last["eval_accuracy"]
    assert result.eval_loss.best == min(first["eval_loss"], last["eval_loss"])
    assert result.train_loss == last["train_loss"]
    assert result.gap["loss"] == last["train_sample_loss"] - last["eval_loss"]
    assert result.gap["accuracy"] == last["train_sample_accuracy"] - last["eval_accuracy"]
    assert (result.steps, result.main_metric) == (8, "accuracy")
    assert result.lora_parameters == 2 * 2 * (16 * 4 * 2)
    assert result.trainable_parameters == result.lora_parameters + 16 * 3 + 3
    assert result.seconds_per_step == pytest.approx(result.seconds / 8)
    assert result.peak_memory_mib > 50


def test_it_learns(tiny_options):
    result = train(replace(tiny_options, method="lora", max_steps=100, learning_rate=3e-2, rank=8))
    assert result.train_sample["accuracy"] > 0.8
    assert result.train_sample["loss"] < 0.7


def test_evaluation_time_is_not_counted(tiny_options, monkeypatch):
    shift = 0.0

    class Slow(Observer):
        def evaluated(self, line):
            nonlocal shift
            shift += 10_000.0

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + shift)
    monkeypatch.setattr(recorder, "time", clock)
    result = train(tiny_options, observer=Slow())
    assert 0 < result.seconds < 10_000


def test_same_seed_same_run(tiny_options, tmp_path):
    one = train(tiny_options)
    two = train(replace(tiny_options, output=str(tmp_path / "again")))
    assert without_times(one.to_dict()) == without_times(two.to_dict())
    assert_same_weights(adapter(tiny_options.output), adapter(tmp_path / "again"))


def test_methods_share_weights_and_batches_of_a_seed(tiny_options, tmp_path):
    seen = {}
    for method in ("lora", "hiddenkey-minus", "hiddenkey"):
        seen[method] = Batches()
        options = replace(tiny_options, method=method, output=str(tmp_path / method))
        train(options, callbacks=[seen[method]])
    other = Batches()
    train(replace(tiny_options, seed=1, output=str(tmp_path / "other")), callbacks=[other])
    plain = seen["lora"]
    assert len(plain.batches) == 8
    for method, passes in (("hiddenkey-minus", 1), ("hiddenkey", 2)):
        assert_same_weights(plain.weights, seen[method].weights)
        assert len(seen[method].batches) == 8 * passes
        for batch, same in zip(plain.batches, seen[method].batches[::passes], strict=True):
            torch.testing.assert_close(batch, same)
    assert any(
        not torch.equal(weight, other.weights[name]) for name, weight in plain.weights.items()
    )
    assert not all(map(torch.equal, plain.batches[:4], other.batches[:8:2]))


@pytest.mark.parametrize("method", ["lora", "hiddenkey"])
def test_accumulation_is_a_larger_batch(tiny_options, tmp_path, method):
    noise_off = {"attention_logits": 0.0, "hidden": 0.0} if method == "hiddenkey" else {}
    common = replace(tiny_options, method=method, rates=noise_off)
    whole = train(replace(common, batch_size=8, output=str(tmp_path / "whole")))
    parts = train(
        replace(common, batch_size=2, gradient_accumulation=4, output=str(tmp_path / "parts"))
    )
    assert_same_weights(
        adapter(tmp_path / "whole"), adapter(tmp_path / "parts"), rtol=1e-3, atol=1e-5
    )
    assert parts.train_loss == pytest.approx(whole.train_loss, rel=1e-4)


def test_accumulation_keeps_the_weight_of_the_consistency_loss(tiny_options, tmp_path):
    """The two passes differ by noise, so only their size can be compared."""
    common = replace(tiny_options, rate=0.3, learning_rate=1e-9, evaluations=1)
    train(replace(common, output=str(tmp_path / "whole")))
    train(replace(common, batch_size=2, gradient_accumulation=4, output=str(tmp_path / "parts")))
    (whole,), (parts,) = lines(tmp_path / "whole"), lines(tmp_path / "parts")
    assert parts["task_loss"] == pytest.approx(whole["task_loss"], rel=0.05)
    assert parts["consistency_loss"] == pytest.approx(whole["consistency_loss"], rel=0.6)
    for line in (whole, parts):
        assert line["train_loss"] == pytest.approx(
            line["task_loss"] + line["consistency_loss"], rel=1e-4
        )


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_neftune_adds_uniform_noise_to_the_embeddings(tiny_options, adapter):
    """NEFTune, arXiv 2310.05914: of at most alpha / √(tokens · features), in training alone."""
    options = replace(
        tiny_options,
        method="lora",
        adapter=adapter,
        rank=8,
        neftune_alpha=3.0,
        max_steps=2,
        evaluations=1,
    )
    seen = {True: [], False: []}

    class See(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **_):
            if state.global_step == 0:  # after NEFTune's own hook
                embed = model.get_input_embeddings()
                embed.register_forward_hook(self.see)

        def see(self, module, args, output):
            plain = torch.nn.functional.embedding(args[0], module.weight)
            seen[module.training].append((output - plain).detach())

    train(options, callbacks=[See()])
    for noise in seen[True]:
        largest = 3.0 / (noise.shape[1] * noise.shape[2]) ** 0.5
        assert 0.98 * largest < noise.abs().max() <= 1.001 * largest
        assert abs(noise.mean()) < 5 * largest / (3 * noise.numel()) ** 0.5
    assert seen[True]
    assert seen[False]
    assert all(not noise.any() for noise in seen[False])


@pytest.mark.parametrize("method", ["two-sided-lora-dropout", "coto"])
def test_noise_on_the_update_goes_on_exactly(tiny_options, tmp_path, method):
    """Masks, and the rate that falls by the method's own schedule, are those of a whole run."""
    options = replace(tiny_options, method=method, rate=0.6, evaluations=3, also=("hiddencut",))
    train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(5)])
    train(replace(options, resume=True))
    assert_same_weights(adapter(tmp_path / "whole"), adapter(options.output), rtol=0, atol=0)
    assert [without_times(line) for line in lines(options.output)] == [
        without_times(line) for line in lines(tmp_path / "whole")
    ]


@pytest.mark.parametrize("stopped_at", [2, 5, 7])
def test_resumed_run_ends_like_an_undisturbed_one(tiny_options, tmp_path, stopped_at):
    options = replace(tiny_options, consistency_every=2, evaluations=3, rate=0.3)
    whole = train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(stopped_at)])
    assert not (Path(options.output) / "result.json").exists()
    resumed = train(replace(options, resume=True))
    assert without_times(resumed.to_dict()) == without_times(whole.to_dict())
    assert_same_weights(adapter(tmp_path / "whole"), adapter(options.output))
    assert [without_times(line) for line in lines(options.output)] == [
        without_times(line) for line in lines(tmp_path / "whole")
    ]


def test_half_written_checkpoint_is_not_resumed_from(tiny_options, tmp_path, caplog):
    options = replace(tiny_options, evaluations=4)
    whole = train(replace(options, output=str(tmp_path / "whole")))
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(5)])
    half = Path(options.output) / "checkpoints" / "checkpoint-6"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"half")
    resumed = train(replace(options, resume=True))
    assert "optimizer.pt is missing: the training goes on from step" in caplog.text
    assert without_times(resumed.to_dict()) == without_times(whole.to_dict())


def test_finished_run_is_refused_returned_or_replaced(tiny_options):
    first = train(tiny_options)
    with pytest.raises(ConfigError, match="holds a finished one"):
        train(tiny_options)
    assert train(replace(tiny_options, resume=True)) == first
    with pytest.raises(ConfigError, match="seed was 0, got 1"):
        train(replace(tiny_options, resume=True, seed=1))
    again = train(replace(tiny_options, seed=1, overwrite=True))
    assert again.seed == 1
    assert Result.load(Path(tiny_options.output)).seed == 1


def test_missing_tracker_is_refused_before_a_model_is_loaded(tiny_options, monkeypatch):
    monkeypatch.setattr(building, "load_model", None)
    with pytest.raises(ConfigError, match="got 'wandbb'; did you mean 'wandb'"):
        train(replace(tiny_options, report_to=("wandbb",)))


def test_refused_model_leaves_no_folder(tiny_options):
    with pytest.raises(ConfigError, match="layers must be below 2"):
        train(replace(tiny_options, layers=(7,)))
    assert not Path(tiny_options.output).exists()


def test_adapter_loads_in_plain_peft(tiny_options):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    train(tiny_options)
    folder = Path(tiny_options.output) / "adapter"
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_options.model, num_labels=3, ignore_mismatched_sizes=True
    )
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = Path(tiny_options.eval_file).read_text().splitlines()[1:]
    texts, labels = zip(*(row.split(",") for row in rows), strict=True)
    batch = tokenizer(list(texts), padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**batch).logits.argmax(-1).tolist()
    correct = [
        ("ant", "bee", "cat")[p] == label for p, label in zip(predicted, labels, strict=True)
    ]
    assert sum(correct) / len(correct) == lines(tiny_options.output)[-1]["eval_accuracy"]


def test_regression(tiny_options, tmp_path):
    for name in ("train", "eval"):
        rows = (tmp_path / f"{name}.csv").read_text().splitlines()[1:]
        scores = [f"{row.split(',')[0]},{len(row.split()) / 2}" for row in rows]
        (tmp_path / f"{name}-scores.csv").write_text("\n".join(["text,label", *scores]))
    options = replace(
        tiny_options,
        regression=True,
        train_file=str(tmp_path / "train-scores.csv"),
        eval_file=str(tmp_path / "eval-scores.csv"),
    )
    result = train(options)
    assert set(result.metrics) == {"pearson", "spearman"}
    last = lines(options.output)[-1]
    assert last["consistency_loss"] > 0
    assert not any(name.endswith(CALIBRATION) for name in last), "a score has no confidence"


def test_a_diverged_run_fails_and_has_lines_without_calibration(tiny_options):
    options = replace(tiny_options, learning_rate=4e9, evaluations=1)
    with pytest.raises(DivergedError, match=r"diverged: train_loss is nan at step 8; take a small"):
        train(options)
    (last,) = lines(tiny_options.output)
    assert last["eval_loss"] is None
    assert [last[f"eval_{name}"] for name in CALIBRATION] == [None] * 3
    assert not (options.folder / "result.json").exists()
    with pytest.raises(DivergedError):
        train(replace(options, resume=True))


def test_a_diverged_run_that_counted_as_finished_fails_too(tiny_options):
    train(tiny_options)
    path = tiny_options.folder / "result.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "eval_loss": {**stored["eval_loss"], "last": None}}))
    (tiny_options.folder / "checksums.json").unlink()  # which earlier versions did not write
    with pytest.raises(DivergedError, match="diverged: the evaluation loss at step 8"):
        train(replace(tiny_options, resume=True))


SETTINGS = {
    "constant": {"scheduler": "constant"},
    "part of an epoch": {"scheduler": "constant", "max_steps": 6, "evaluations": 2},
    "layers": {"layers": (1,), "scheduler": "constant", "max_steps": 6},
    "bfloat16": {"precision": "bfloat16", "scheduler": "constant", "max_steps": 6},
    "accumulation": {"batch_size": 2, "gradient_accumulation": 4, "max_steps": 6},
    "full": {"adapter": "full", "rank": 8, "scheduler": "constant", "max_steps": 6},
    "every": {"consistency_every": 2, "max_steps": 6, "log_every": 1},
    "checkpointing": {"gradient_checkpointing": True, "scheduler": "constant", "max_steps": 6},
    "rates": {"rate_warmup": 0.5, "rate_decay": "linear", "max_steps": 6},
}


@pytest.mark.parametrize("where", ["middle", "result"])
@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_resumes_as_if_nothing_had_been(
    tiny_options, tmp_path, monkeypatch, changes, where
):
    options = replace(tiny_options, rate=0.3, **changes)
    whole = train(replace(options, output=str(tmp_path / "whole")))
    if where == "result":
        monkeypatch.setattr(training, "sum_up", stop)
    with pytest.raises(InterruptedError):
        train(options, callbacks=[Stop(5)] if where == "middle" else [])
    monkeypatch.undo()
    resumed = train(replace(options, resume=True))
    assert without_times(resumed.to_dict()) == without_times(whole.to_dict())
    assert_same_files(tmp_path / "whole" / "adapter", options.folder / "adapter")
    assert [without_times(line) for line in lines(options.output)] == [
        without_times(line) for line in lines(tmp_path / "whole")
    ]


def stop(*_, **__):
    raise InterruptedError("stopped at the end")


def assert_same_files(left, right):
    names = sorted(path.name for path in left.iterdir())
    assert names == sorted(path.name for path in right.iterdir())
    for name in names:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"gradient_checkpointing": True},
        {"method": "hiddenkey-js"},
        {"method": "dropattention-element", "kernel": "reference"},
        {"scheduler": "constant", "warmup_ratio": 0.0, "weight_decay": 0.1},
        {"max_steps": None, "epochs": 0.5, "evaluations": 9},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_settings_work(tiny_options, changes):
    result = train(replace(tiny_options, **changes))
    assert result.eval_loss.last is not None
    assert result.steps == (8 if changes.get("max_steps", 8) else 2)


def test_rates_follow_their_schedule(tiny_options):
    schedule = {"rate_warmup": 0.5, "rate_decay": "linear", "rate_depth": "growing"}
    options = replace(tiny_options, method="hiddencut", rate=0.5, max_steps=8, evaluations=8)
    train(replace(options, **schedule))
    last, first = [], []
    for line in lines(options.output):
        layers = sorted(line["dropped"])
        first.append(line["dropped"][layers[0]])
        last.append(line["dropped"][layers[-1]])
    # steps 0 to 3 rise, 4 has the whole rate, and 7 none
    assert last == pytest.approx([0, 0.125, 0.25, 0.375, 0.5, 1 / 3, 1 / 6, 0], abs=0.06)
    assert first[4] == pytest.approx(0.5 / len(layers), abs=0.06)


def test_checkpointing_changes_nothing(tiny_options, tmp_path):
    plain = replace(tiny_options, method="hiddenkey-minus", max_steps=3)
    train(replace(plain, output=str(tmp_path / "plain")))
    train(replace(plain, gradient_checkpointing=True, output=str(tmp_path / "saved")))
    assert_same_weights(
        adapter(tmp_path / "plain"), adapter(tmp_path / "saved"), rtol=1e-4, atol=1e-6
    )


def test_observer_is_told(tiny_options):
    class Told(Observer):
        def __init__(self):
            self.lines, self.sites = [], ()

        def attached(self, attachment):
            self.sites = attachment.sites

        def evaluated(self, line):
            self.lines.append(line)

    told = Told()
    train(tiny_options, observer=told)
    assert len(told.sites) == 4
    assert [line["step"] for line in told.lines] == [4, 8]


@pytest.mark.parametrize("method", ["lora", "hiddenkey"])
def test_bundled_model_and_headlines(tmp_path, method):
    options = TrainOptions(
        method=method,
        train_size=24,
        eval_size=20,
        max_length=32,
        batch_size=8,
        max_steps=4,
        evaluations=2,
        output=str(tmp_path),
    )
    result = train(options)
    assert result.lora_parameters == 6 * 2 * (384 * 8 * 2)
    assert len(read(tmp_path, "sites.json")) == (12 if method == "hiddenkey" else 0)
    assert len(lines(tmp_path)) == 2
