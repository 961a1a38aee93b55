import csv
import json
import shutil

import huggingface_hub
import pytest

from hiddenkey.cli.main import main
from hiddenkey.lab import scores
from hiddenkey.lab.scores.java import MissingToolError
from lab.conftest import tiny_language_model  # noqa: F401 - a fixture

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    def find():
        raise MissingToolError("no Java here")

    monkeypatch.setattr(scores, "find_tools", find)


def write(path, rows, columns=("text", "label")):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def values(shown):
    """The metrics of a table that was printed."""
    words = [line.split() for line in shown.splitlines()]
    return {found[0]: found[1] for found in words if len(found) == 2 and "." in found[1]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of the bundled encoder on two classes, and its evaluation file."""
    folder = tmp_path_factory.mktemp("run")
    goods = [f"a good film {index}" for index in range(16)]
    bads = [f"it was awful {index}" for index in range(16)]
    rows = [*((text, "good") for text in goods), *((text, "bad") for text in bads)]
    train, dev = write(folder / "train.csv", rows[::2]), write(folder / "dev.csv", rows[1::2])
    words = ["--task", "file", "--train-file", str(train), "--eval-file", str(dev)]
    words += ["--text-columns", "text", "--max-length", "12", "--max-steps", "6"]
    words += ["--batch-size", "8", "--evaluations", "2", "--output", str(folder / "run")]
    assert main(["train", *words]) == 0
    return folder / "run"


def test_a_labelled_file_gets_labels_probabilities_and_the_runs_metrics(run, capsys):
    dev = run.parent / "dev.csv"
    assert main(["predict", str(run), str(dev)]) == 0
    shown = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    measured = {name: f"{found['last']:.4f}" for name, found in result["metrics"].items()}
    assert values(shown) == measured
    rows, given = read(run.parent / "dev.csv.predictions.csv"), read(dev)
    assert [row["text"] for row in rows] == [row["text"] for row in given]
    right = [r["predicted_label"] == g["label"] for r, g in zip(rows, given, strict=True)]
    assert sum(right) / len(right) == pytest.approx(result["metrics"]["accuracy"]["last"])
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_texts_alone_from_the_adapter_folder_elsewhere(run, tmp_path, capsys):
    """The folder may be moved, and the file may have other columns and no labels."""
    folder = shutil.copytree(run / "adapter", tmp_path / "moved")
    lines = [{"review": "a good film 3", "id": 1}, {"review": "it was awful 5", "id": 2}]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["predict", str(folder), str(file), "--text-columns", "review"]
    assert main([*words, "--output", str(tmp_path / "out.csv")]) == 0
    shown = capsys.readouterr().out
    assert not values(shown)
    rows = read(tmp_path / "out.csv")
    assert [row["review"] for row in rows] == ["a good film 3", "it was awful 5"]
    assert set(rows[0]) == {"review", "predicted_label", "probability"}


def test_texts_are_generated_once_for_each_prompt(
    tiny_language_model,  # noqa: F811
    tmp_path,
    capsys,
):
    rows = [(f"w{index % 4} is", f"w{index} cat") for index in range(8)]
    file = write(tmp_path / "texts.csv", rows, ("prompt", "completion"))
    words = ["--model", str(tiny_language_model), "--task", "completion", "--max-steps", "2"]
    words += ["--train-file", str(file), "--eval-file", str(file), "--evaluations", "1"]
    words += ["--max-length", "24", "--max-new-tokens", "5", "--beams", "1"]
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(file)]) == 0
    lines = (tmp_path / "run/generations.jsonl").read_text().splitlines()
    generated = {line["prompt"]: line["output"] for line in map(json.loads, lines)}
    rows = read(tmp_path / "texts.csv.predictions.csv")
    assert [row["generated_text"] for row in rows] == [generated[row["prompt"]] for row in rows]
    stored = json.loads((tmp_path / "run/scores.json").read_text())["all"]
    assert values(capsys.readouterr().out) == {name: f"{x:.4f}" for name, x in stored.items()}


def test_conversations_are_gone_on_with(
    tiny_language_model,  # noqa: F811
    tmp_path,
):
    turns = [[{"role": "user", "content": f"w{i}"}] for i in range(8)]
    rows = [{"messages": [*t, {"role": "assistant", "content": "w1 cat"}]} for t in turns]
    train, file = tmp_path / "train.jsonl", tmp_path / "open.jsonl"
    train.write_text("\n".join(map(json.dumps, rows)))
    file.write_text("\n".join(json.dumps({"messages": t}) for t in turns))
    words = ["--model", str(tiny_language_model), "--task", "completion", "--max-steps", "2"]
    words += ["--train-file", str(train), "--holdout", "0.25", "--evaluations", "1"]
    words += ["--max-length", "24", "--max-new-tokens", "5", "--beams", "1"]
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == 0
    assert main(["predict", str(tmp_path / "run"), str(file)]) == 0
    lines = (tmp_path / "run/generations.jsonl").read_text().splitlines()
    generated = {line["prompt"]: line["output"] for line in map(json.loads, lines)}
    found = {
        row["prompt"]: row["generated_text"]
        for row in read(tmp_path / "open.jsonl.predictions.csv")
    }
    assert len(found) == 8
    assert generated.items() <= found.items()


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ("text,label\na,good\nb,fine\n", [], "label must be one of bad, good, got 'fine'"),
        ("review\na\n", [], "must have a column 'text', got 'review'"),
        ("text\na\n", ["--label-column", "gold"], "label_column must be a column of"),
        ("text\na\n", ["--text-columns", "a", "b"], "text_columns must name as many columns"),
        ("text\n \n", [], "column 'text' must hold text"),
        ("text\na\n", ["--output", "FILE"], "output must be a file of its own"),
        (None, [], "does not exist; check the path"),
    ],
)
def test_a_faulty_file_is_refused_before_a_model_is_loaded(
    content, words, message, run, tmp_path, capsys
):
    file = tmp_path / "texts.csv"
    if content is not None:
        file.write_text(content)
    words = [str(file) if word == "FILE" else word for word in words]
    assert main(["predict", str(run), str(file), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("*.predictions.csv"))


def test_an_adapter_that_does_not_fit_is_refused(run, tmp_path, capsys):
    folder = shutil.copytree(run / "adapter", tmp_path / "adapter")
    known = json.loads((folder / "hiddenkey_run.json").read_text())
    known["settings"]["rank"] = 4
    (folder / "hiddenkey_run.json").write_text(json.dumps(known))
    assert main(["predict", str(folder), str(run.parent / "dev.csv")]) == 2
    assert "could not be loaded" in capsys.readouterr().err


def test_an_adapter_of_the_hub_is_fetched_by_its_name(run, tmp_path, capsys, monkeypatch):
    asked = []

    def fetch(name):
        asked.append(name)
        return str(run / "adapter")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    file = write(tmp_path / "texts.csv", [["a good film 3"]], ["text"])
    assert main(["predict", "me/mine", str(file)]) == 0
    assert asked == ["me/mine"]
    assert len(read(tmp_path / "texts.csv.predictions.csv")) == 1


def test_conversations_are_read_as_in_training(tiny_language_model, tmp_path, capsys):  # noqa: F811
    lines = [
        {"messages": [{"role": "user", "content": f"w{n}"}, {"role": "assistant", "content": "w9"}]}
        for n in range(6)
    ]
    file = tmp_path / "chats.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = ["--model", str(tiny_language_model), "--task", "completion", "--max-steps", "1"]
    words += ["--train-file", str(file), "--eval-file", str(file), "--evaluations", "1"]
    words += ["--max-length", "24", "--max-new-tokens", "5", "--beams", "1"]
    assert main(["train", *words, "--output", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(file)]) == 0
    stored = json.loads((tmp_path / "run/scores.json").read_text())["all"]
    assert values(capsys.readouterr().out) == {name: f"{x:.4f}" for name, x in stored.items()}
    generated = (tmp_path / "run/generations.jsonl").read_text().splitlines()
    rows = read(tmp_path / "chats.jsonl.predictions.csv")
    assert [row["generated_text"] for row in rows] == [json.loads(g)["output"] for g in generated]
