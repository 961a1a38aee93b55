"""The adapter that a run leaves loads by PEFT alone, with the outputs of what was trained."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import hiddenkey
from hiddenkey.errors import ConfigError
from hiddenkey.lab import scores
from hiddenkey.lab.run import training
from hiddenkey.lab.run.leaving import Origin, base_of, find_adapter, save
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.recorder import Observer
from hiddenkey.lab.run.result import best_step
from hiddenkey.lab.run.training import train
from hiddenkey.lab.scores.java import MissingToolError

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TEXTS = ["w1 w2 ant", "bee w7"]


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """Starting Java takes longer than everything else here."""

    def find():
        raise MissingToolError("no Java here")

    monkeypatch.setattr(scores, "find_tools", find)


@pytest.fixture
def trained(monkeypatch):
    """Holds the model and the tokenizer that the last run has trained."""
    found = SimpleNamespace()
    build = training.build_model

    def keep(*given):
        found.model, found.tokenizer = build(*given)
        return found.model, found.tokenizer

    monkeypatch.setattr(training, "build_model", keep)
    return found


def logits(model, tokenizer):
    model.eval()
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits


def loaded_by_the_card(folder):
    """What the card's own lines make of the folder."""
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(code.replace('"."', repr(str(folder))), names)
    return names["model"], names["tokenizer"]


@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3", "prefix", "full"])
def test_the_cards_code_loads_what_was_trained(adapter, tiny_options, trained, tmp_path):
    own = {} if adapter in ("lora", "dora") else {"rank": 8}
    options = replace(tiny_options, adapter=adapter, **own)
    train(options)
    folder = options.folder / "adapter"
    model, tokenizer = loaded_by_the_card(folder)
    assert torch.equal(logits(model, tokenizer), logits(trained.model, trained.tokenizer))
    assert model.config.id2label == {0: "ant", 1: "bee", 2: "cat"}
    assert model.config.label2id == {"ant": 0, "bee": 1, "cat": 2}
    assert tokenizer.get_vocab() == trained.tokenizer.get_vocab()
    for path in folder.glob("*"):
        if path.suffix in (".json", ".md") and path.name != "adapter_config.json":
            assert str(tmp_path) not in path.read_text(), path.name
            assert str(options.model) not in path.read_text(), path.name


def test_scores_and_texts_load_too(tiny_options, tiny_language_model, trained, tmp_path):
    rows = [f"w{index},{index / 7}" for index in range(8)]
    (tmp_path / "scores.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    file = str(tmp_path / "scores.csv")
    regression = replace(tiny_options, train_file=file, eval_file=file, regression=True)
    lines = [{"prompt": f"w{index} ant", "completion": "w3 w4"} for index in range(8)]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    file = str(tmp_path / "texts.jsonl")
    texts = TrainOptions(
        model=str(tiny_language_model), task="completion", train_file=file, eval_file=file,
        max_steps=2, evaluations=1, beams=1, max_new_tokens=4, max_length=32,
        output=str(tmp_path / "texts"),
    )  # fmt: skip
    for options in (regression, texts):
        train(options)
        model, tokenizer = loaded_by_the_card(options.folder / "adapter")
        assert torch.equal(logits(model, tokenizer), logits(trained.model, trained.tokenizer))


def test_the_card_says_what_the_run_knows(tiny_options):
    result = train(replace(tiny_options, rate=0.2))
    text = (tiny_options.folder / "adapter/README.md").read_text()
    content = ModelCard(text).data
    assert (content.library_name, content.base_model) == ("peft", None)
    assert set(content.tags) == {"hiddenkey", "lora"}
    found = {each.metric_type: each.metric_value for each in content.eval_results}
    assert found == {
        "loss": result.eval_loss.last,
        **{name: summary.last for name, summary in result.metrics.items()},
    }
    settings = yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])
    assert (settings["rate"], settings["learning_rate"], settings["rank"]) == (0.2, 0.01, 4)
    for part in (
        "Training examples: 32 (ant: 11, bee: 11, cat: 10).",
        "Evaluation examples: 15 (ant: 5, bee: 5, cat: 5).",
        "Text columns: `text`; label column: `label`.",
        "- attention_logits: column, rate 0.2, rescale none, 2 of 2 layers",
        f"hiddenkey {hiddenkey.__version__}, torch {torch.__version__}",
    ):
        assert part in text
    assert "license" not in text


def test_a_bundled_model_is_named_as_on_the_hub(tmp_path):
    options = TrainOptions(
        train_size=8, eval_size=8, max_length=16, max_steps=1, evaluations=1,
        output=str(tmp_path / "run"),
    )  # fmt: skip
    train(options)
    folder = options.folder / "adapter"
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "sentence-transformers/all-MiniLM-L6-v2"
    card = ModelCard((folder / "README.md").read_text()).data
    assert card.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert base_of(folder, Origin.load(folder)) == "minilm"
    for path in folder.glob("*.[jm][sd]*"):
        assert "site-packages" not in path.read_text(), path.name


def test_a_file_in_the_format_gguf_is_named_itself(tiny_options, tmp_path):
    prepared = prepare(tiny_options)
    file = tmp_path / "model.gguf"
    file.touch()
    parts = training.build_model(tiny_options, prepared)
    save(replace(tiny_options, model=str(file)), prepared, *parts, tmp_path / "adapter")
    assert base_of(tmp_path / "adapter", Origin.load(tmp_path / "adapter")) == str(file)


def weights_of(folder):
    return load_file(folder / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def best_in_the_middle(monkeypatch):
    """The evaluation of step 4 of 8 counts as the best by the accuracy."""
    shown = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4}
    real = training.Recorder.on_evaluate

    def on_evaluate(self, args, state, control, metrics=None, **more):
        forged = {
            name: shown[state.global_step] if name == "eval_dev_accuracy" else value
            for name, value in metrics.items()
        }
        return real(self, args, state, control, metrics=forged, **more)

    monkeypatch.setattr(training.Recorder, "on_evaluate", on_evaluate)


class StoppedError(Exception):
    """Stands for the end of a process."""


class Stopping(Observer):
    """Ends a run after an evaluation."""

    def __init__(self, step):
        self._step = step
        self.said = []

    def damaged(self, said):
        self.said.append(said)

    def evaluated(self, line):
        if line["step"] == self._step:
            raise StoppedError


def test_the_best_evaluations_weights_are_kept_and_a_resumed_run_keeps_the_same(
    tiny_options, best_in_the_middle, tmp_path
):
    options = replace(tiny_options, evaluations=4)
    train(replace(options, max_steps=8, keep="last"))
    last = weights_of(options.folder / "adapter")
    best = replace(options, keep="best", output=str(tmp_path / "best"))
    result = train(best)
    assert result.metrics["accuracy"].best_step == 4
    kept = weights_of(best.folder / "adapter")
    assert same(kept, weights_of(best.folder / "checkpoints/checkpoint-4"))
    assert not same(kept, last)
    card = (best.folder / "adapter/README.md").read_text()
    assert "| accuracy | 0.9000 |" in card
    assert "best evaluation, step 4 of 8" in card

    stopped = replace(best, output=str(tmp_path / "stopped"))
    with pytest.raises(StoppedError):
        train(stopped, observer=Stopping(8))
    assert train(replace(stopped, resume=True)).metrics == result.metrics
    assert same(kept, weights_of(stopped.folder / "adapter"))


def test_a_lost_best_checkpoint_is_said(tiny_options, best_in_the_middle):
    options = replace(tiny_options, evaluations=4, keep="best")
    with pytest.raises(StoppedError):
        train(options, observer=Stopping(8))
    shutil.rmtree(options.folder / "checkpoints/checkpoint-4")
    observer = Stopping(None)
    train(replace(options, resume=True), observer=observer)
    assert "the adapter holds the weights of the last step" in observer.said[-1]
    assert "| metric | last step |" in (options.folder / "adapter/README.md").read_text()


def test_the_best_step_is_by_the_metric_and_then_by_the_loss():
    lines = [{"step": 1, "eval_loss": 0.5, "eval_f1": 0.3, "eval_TER": 0.3}]
    lines.append({"step": 2, "eval_loss": 0.4, "eval_f1": 0.3, "eval_TER": 0.2})
    lines.append({"step": 3, "eval_loss": 0.6, "eval_f1": 0.2, "eval_TER": 0.4})
    assert [best_step(lines, name) for name in ("f1", "TER", "BLEU")] == [2, 2, 2]
    assert best_step(lines[::2], "f1") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"must be a run's folder or its adapter's, which holds hiddenkey_run\.json"),
        ("{", r"hiddenkey_run\.json cannot be read"),
        ("[]", r"hiddenkey_run\.json cannot be read"),
        ('{"settings": {"rank": "x"}}', "max_length must be int|rank must be int"),
        ('{"label_names": [1]}', r"label_names\[0\] must be str"),
    ],
)
def test_a_damaged_adapter_folder_is_refused(content, message, tmp_path):
    good = {
        "version": "0.1.0", "kind": "classification", "model": "minilm", "label_names": ["a", "b"],
        "texts": 1, "settings": {"max_length": 16},
    }  # fmt: skip
    if content is not None:
        changed = {**good, **json.loads(content)} if content.endswith("}") else None
        text = content if changed is None else json.dumps(changed)
        (tmp_path / "hiddenkey_run.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        Origin.load(find_adapter(str(tmp_path)))


@pytest.mark.parametrize("name", ["no/such/folder", "./nothing", "someone/no-such-adapter"])
def test_what_is_no_adapter_is_refused(name):
    with pytest.raises(ConfigError, match=r"check the (path|name and the network)"):
        find_adapter(name)
