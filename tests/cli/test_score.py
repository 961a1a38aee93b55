import json

import pytest

from hiddenkey.cli.commands import COMMANDS
from hiddenkey.errors import ConfigError

REFERENCES = "The cat sat.\nA cat sat on it.\n\nIt rains a lot.\n"
OUTPUTS = "The cat sat.\nIt rains a bit.\n"
ENTRY = (
    '<entry category="{}" eid="{}" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>'
    '</modifiedtripleset><lex comment="good">{}</lex></entry>'
)


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """Starting Java takes longer than everything else here."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("JAVA_HOME", raising=False)


def score(words):
    return COMMANDS["score"].run("score", words)


def write(folder, name, content):
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def run(tmp_path, capsys):
    """Score two files; returns what was printed."""

    def call(task, references, outputs, *words, name="a.txt"):
        paths = write(tmp_path, name, references), write(tmp_path, "b.txt", outputs)
        arguments = ["--task", task, "--references", paths[0], "--outputs", paths[1], *words]
        assert score(arguments) == 0
        return capsys.readouterr().out

    return call


def test_json_of_a_generation_task(run, tmp_path):
    found = json.loads(run("e2e", REFERENCES, OUTPUTS, "--json"))
    assert list(found) == [
        *("task", "references", "outputs", "columns", "instances", "scores", "skipped")
    ]
    assert (found["task"], found["instances"]) == ("e2e", 2)
    assert found["references"] == str(tmp_path / "a.txt")
    assert list(found["scores"]) == ["BLEU", "NIST"]
    assert 0 < found["scores"]["BLEU"] < 1
    reason = "needs Java, no 'java' was found; install a Java runtime"
    assert set(found["skipped"]) == {"METEOR", "ROUGE_L", "CIDEr"}
    assert all(why.startswith(reason) for why in found["skipped"].values())


def test_table_shows_scores_and_why_some_are_skipped(run):
    scores = json.loads(run("e2e", REFERENCES, OUTPUTS, "--json"))["scores"]
    shown = run("e2e", REFERENCES, OUTPUTS)
    rows = {line.split()[0]: line.split()[-1] for line in shown.splitlines() if line.strip()}
    assert rows["BLEU"] == f"{scores['BLEU']:.4f}"
    assert rows["METEOR"] == "skipped"
    assert "2 instances" in shown
    assert "skipped METEOR, ROUGE_L, CIDEr: needs Java" in shown


def test_webnlg_shows_all_seen_and_unseen(run):
    texts = ["a b c d e", "f g h i j", "k l m n o"]
    entries = [
        ENTRY.format(category, f"Id{number}", text)
        for number, (category, text) in enumerate(
            zip(("Food", "Artist", "City"), texts, strict=True), start=1
        )
    ]
    references = f"<benchmark><entries>{''.join(entries)}</entries></benchmark>"
    outputs = "a b c d e\nf x h y j\nk l m n o\n"
    shown = run("webnlg", references, outputs, name="a.xml")
    heading = next(line for line in shown.splitlines() if "metric" in line)
    assert " ".join(heading.split()) == (
        "metric All: 3 instances Seen: 2 instances Unseen: 1 instance"
    )
    assert "TER (lower is better)" in shown
    found = json.loads(run("webnlg", references, outputs, "--json", name="a.xml"))
    assert found["scores"]["TER"] == pytest.approx(2 / 15)
    assert list(found["groups"]) == ["seen", "unseen"]
    assert found["groups"]["seen"]["instances"] == 2
    assert found["groups"]["seen"]["scores"] == pytest.approx({"BLEU": 100.0, "TER": 0.0})
    assert found["groups"]["unseen"]["scores"]["TER"] == pytest.approx(2 / 5)


def test_glue_task(run):
    references = "source\t1\t\tA.\ns\t0\t*\tB.\ns\t1\t\tC.\ns\t0\t*\tD.\n"
    found = json.loads(run("cola", references, "1\nunacceptable\n0\n0\n", "--json", name="dev.tsv"))
    # one false negative: (1·2 - 0·1) / sqrt(1 · 2 · 2 · 3)
    assert found["scores"] == pytest.approx({"matthews": 2 / 12**0.5, "accuracy": 3 / 4})
    assert "accuracy" in run("cola", references, "1\n0\n0\n0\n", name="dev.tsv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--task", "e3e"],
            r"--task must be one of e2e, webnlg, completion, cola, .*; did you mean 'e2e'\?",
        ),
        (
            ["--task", "headlines"],
            "--task must be one of e2e, webnlg, completion, cola, .* got 'headlines'",
        ),
        (["--task", "e2e"], r"a\.txt: does not exist; check the path"),
        (["--task", "rte"], r"must be one of \.csv, \.tsv, \.jsonl.* got '\.txt'; convert"),
    ],
)
def test_refusals(tmp_path, words, message):
    files = ["--references", str(tmp_path / "a.txt"), "--outputs", str(tmp_path / "b.txt")]
    with pytest.raises(ConfigError, match=message):
        score([*words, *files])


def test_files_must_be_named():
    with pytest.raises(ConfigError, match="arguments are required: references, outputs"):
        score(["--task", "e2e"])


def test_answers_of_ones_own(run):
    found = json.loads(run("completion", "yes\n\nno\n\n7\n", "Yes.\nno\n8\n", "--json"))
    assert found["scores"]["exact_match"] == pytest.approx(2 / 3)
    assert "BLEU" in found["note"]
    shown = run("completion", "yes\n\nno\n", "Yes.\nno\n")
    assert "means nothing" in shown


def test_the_columns_that_were_taken_are_shown(tmp_path, capsys):
    rows = "".join(
        json.dumps({"predict": predicted, "label": label}) + "\n"
        for predicted, label in [("1", "0"), ("0", "1")]
    )
    references = "source\t0\t\tA.\ns\t1\t*\tB.\n"
    files = [write(tmp_path, "dev.tsv", references), write(tmp_path, "b.jsonl", rows)]
    words = ["--task", "cola", "--references", files[0], "--outputs", files[1]]
    assert score([*words, "--prediction-column", "predict"]) == 0
    shown = capsys.readouterr().out
    assert "prediction: column 'predict'" in shown
    assert "reference: column 'label'" in shown
    assert score([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["scores"]["accuracy"] == 0
    assert found["columns"]["prediction"] == "predict"
