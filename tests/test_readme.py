"""What the README, the first page and the pages of commands say can be run and found."""

import json
import re
import shlex
from pathlib import Path

import pytest

import hiddenkey
from hiddenkey.cli.arguments import parse
from hiddenkey.cli.main import COMMANDS
from hiddenkey.lab.assets import BUNDLED_MODELS, locate
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import validate

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
START = (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
GUIDES = [README, START]
GUIDES += [p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs" / "how-to").glob("*.md"))]
MODEL_ON_THE_HUB = '"sentence-transformers/all-MiniLM-L6-v2"'


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set:UserWarning")
@pytest.mark.parametrize("page", [README, START], ids=["README", "start"])
def test_the_scripts_run_one_after_the_other(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scripts = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    local = repr(str(locate(BUNDLED_MODELS["minilm"])))
    assert MODEL_ON_THE_HUB in scripts[0]
    names = {}
    for script in scripts:
        exec(script.replace(MODEL_ON_THE_HUB, local), names)
    shown = capsys.readouterr().out
    said = page.partition("`print(attachment)` says\n\n")[2].partition("\n\n")[0]
    assert "\n".join(line.strip() for line in said.splitlines()) in shown
    history = names["trainer"].state.log_history
    assert {"task_loss", "consistency_loss", "dropped/attention_logits"} <= history[0].keys()
    adapter = tmp_path / "runs/script/adapter/adapter_config.json"
    assert json.loads(adapter.read_text(encoding="utf-8"))["target_modules"]


def commands():
    lines = re.findall(r"^    (hiddenkey .*)$", "\n".join(GUIDES), re.MULTILINE)
    return [shlex.split(line)[1:] for line in lines]


def test_the_commands_exist():
    assert {words[0] for words in commands()} <= set(COMMANDS)


@pytest.mark.parametrize("words", [w for w in commands() if w[0] == "train"], ids=" ".join)
def test_the_training_commands_are_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    options = parse(TrainOptions, "train", words[1:])
    assert options.method.startswith("hiddenkey")
    assert validate(options) == []


def test_the_table_of_methods_is_true():
    page = (ROOT / "docs" / "reference" / "methods.md").read_text(encoding="utf-8")
    section = page.partition("## Methods\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `([\w-]+)` \| (.*)$", section, re.MULTILINE))
    named = {name for name in hiddenkey.methods() if not re.search("-(element|column|span)$", name)}
    assert named - {"cutoff-feature"} == rows.keys()
    for name, row in rows.items():
        for pattern in hiddenkey.methods()[name].pattern.split(" + "):
            assert pattern in row or row.startswith("the same"), name


def test_the_tree_is_true():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    tree = page.partition("## What is where\n\n")[2].partition("\n\n")[0]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        inside = line.startswith(" " * 6)
        folder = folder if inside else ROOT / name
        assert ((folder / name) if inside else folder).exists(), name


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
