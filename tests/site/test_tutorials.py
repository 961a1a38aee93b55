"""The tutorials run from top to bottom as notebooks, and what they show is true."""

import json
import re
import shlex

import pytest

import notebooks
from hiddenkey.cli import compare, tune
from hiddenkey.cli.main import COMMANDS, main
from hiddenkey.lab.compare import worker
from lab.compare.driver import finish, worker_for

PAGES = notebooks.pages()
NAMES = [page.stem for page in PAGES]
SHELL = "%%sh\n"
SHORTER = {"--common.epochs 8": "--common.epochs 1", "--search.trials 3": "--search.trials 2"}
"""Training as long as the page says takes most of a minute, and shows the same lines."""
SHOWN = re.compile(r"```text\n(.*?)```", re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+")
FENCE = re.compile(r"^```(\S*)$", re.MULTILINE)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the trainers, about their own dependencies


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Work in this process, time no steps, and draw the page of compare only."""

    def work_off(console, coordinator, local, shown, workers):
        finish(coordinator, worker_for(coordinator, local))

    for command in (compare, tune):
        monkeypatch.setattr(command, "work_off", work_off)
    monkeypatch.setattr(compare, "time_missing_steps", lambda *_: None)
    monkeypatch.setattr(tune, "write_report", lambda *_, **__: None)
    monkeypatch.setattr(worker, "_forget_peaks", lambda: None)  # collects garbage for each run


def cells(page):
    made = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]


def commands(text):
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()]


def run(source, names):
    """Run a cell as a notebook would; commands run in this process."""
    if not source.startswith(SHELL):
        exec(compile(source, "<cell>", "exec"), names)
        return
    for long, short in SHORTER.items():
        source = source.replace(long, short)
    for words in commands(source.removeprefix(SHELL)):
        assert words[0] == "hiddenkey", words
        assert main(words[1:]) == 0, words


def assert_shown(expected, printed):
    """Each line was printed, in this order; numbers may be a little off, … is any text."""
    lines = iter(printed.splitlines())
    for line in expected.splitlines():
        assert any(is_like(line, each) for each in lines), f"{line!r} is not in {printed}"


def is_like(line, printed):
    texts = [re.escape(part).replace("…", ".*") for part in NUMBER.split(line.strip())]
    found = re.fullmatch(f"({NUMBER.pattern})".join(texts), printed.strip())
    wanted = [float(number) for number in NUMBER.findall(line)]
    return bool(found) and [float(n) for n in found.groups()] == pytest.approx(wanted, abs=0.1)


def test_the_index_leads_to_each_page():
    index = (notebooks.FOLDER / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"\{toctree\}.*?```", index, re.DOTALL)
    assert all(re.search(rf"^{name}$", index, re.MULTILINE) for name in NAMES)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_notebook_is_made_from_the_page(page):
    written = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == notebooks.notebook(page), "run python maintenance/notebooks.py"
    text = page.read_text(encoding="utf-8")
    assert notebooks.link(page) in text
    assert "## Where to go on" in text
    languages = FENCE.findall(text)[::2]
    assert {*languages} <= {"python", "sh", "text", "console", "yaml"}
    assert languages.count("python") + languages.count("sh") == sum(
        kind == "code" for kind, _ in cells(page)
    )


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_the_cells_run_one_after_the_other(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, printed = {"__name__": "__main__"}, ""
    for kind, source in cells(page):
        if kind == "code":
            run(source, names)
            printed = capsys.readouterr().out
        elif shown := SHOWN.search(source):
            assert_shown(shown[1], printed)


def test_the_commands_that_are_only_shown_are_understood(tmp_path, monkeypatch):
    """They take too long here, or somebody's files; their words must be those of the command."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.compare.yaml").write_text("tasks: [file]\n")
    shown = [words for page in PAGES for words in commands_shown(page)]
    assert {"run", "tune", "compare", "report"} == {name for name, *_ in shown}
    for name, *words in shown:
        if COMMANDS[name].options:
            assert COMMANDS[name].read(name, words)
        else:
            own = words[: words.index("--")]
            assert COMMANDS["doctor"].read("doctor", ["minilm", *own]), "settings of a method"


def commands_shown(page):
    for block in re.findall(r"```console\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for words in commands(re.sub(r"^\$ ", "", block, flags=re.MULTILINE)):
            assert words[0] == "hiddenkey"
            yield words[1:]
