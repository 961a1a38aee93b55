"""What the pages of concepts and how-to show runs, and what they say of the package is true."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest

import hiddenkey
from hiddenkey.cli.arguments import parse
from hiddenkey.cli.main import COMMANDS
from hiddenkey.cli.run import RunOptions
from hiddenkey.framework.compensation import KINDS
from hiddenkey.framework.inference import RULES
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.lab.report import page as report_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FOLDERS = ("concepts", "how-to")
TEXTS = {
    page.relative_to(DOCS).as_posix(): page.read_text(encoding="utf-8")
    for folder in FOLDERS
    for page in sorted((DOCS / folder).glob("*.md"))
}
AXES = TEXTS["concepts/axes.md"]
PLAN = "tasks: [headlines]\nmethods: [lora, hiddenkey-minus]\nseeds: [0, 1, 2, 3, 4, 5]\n"


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def commands():
    scripts = [block for text in TEXTS.values() for block in blocks(text, "sh")]
    lines = "".join(scripts).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("hiddenkey ")]


@pytest.fixture
def tables_as_they_were():
    before = [(table, dict(table)) for table in (PATTERNS, POSITIONS)]
    yield
    for table, entries in before:
        table.clear()
        table.update(entries)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if "```python" in text])
def test_the_code_runs(page, tmp_path, monkeypatch, tables_as_they_were):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, block in enumerate(blocks(TEXTS[page], "python"), start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_understood(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.csv").write_text("text,label\ngood,1\nbad,0\n", encoding="utf-8")
    Path("my.compare.yaml").write_text(PLAN, encoding="utf-8")
    _, name, *words = shlex.split(command)
    if name == "run":
        flags = words[: words.index("--")]
        assert parse(RunOptions, name, flags).settings()
    else:
        assert COMMANDS[name].read(name, words)


def cells(text, heading):
    """Rows of the table below a heading, each a list of cells."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)[1:]
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def code(cell):
    return re.findall(r"`([^`]*)`", cell)


def test_every_method_is_on_the_axes():
    placed = {}
    for names, *axes in cells(AXES, "Every method on the axes"):
        placed |= {name: tuple(cell.replace("`", "") for cell in axes) for name in code(names)}
    wanted = {
        name: (each.where, each.pattern, each.compensation)
        for name, each in hiddenkey.methods().items()
    }
    assert placed == wanted


def test_every_entry_of_an_axis_is_named():
    assert [code(row[0])[0] for row in cells(AXES, "Where noise enters")] == [*POSITIONS]
    units = AXES.partition("## Which units")[2].partition("\n## ")[0]
    assert set(re.findall(r"^- \*\*`([\w-]+)`\*\*", units, re.MULTILINE)) == {*PATTERNS}
    losses = cells(AXES, "How training and inference are brought together")
    assert {code(row[0])[0] for row in losses} == {*KINDS}
    assert [code(row[0])[0] for row in cells(AXES, "What is used at inference")] == [*RULES]


SOURCES = (
    "RESULTS",
    "BENCHMARKS",
    "results/overfitting",
    "results/inference",
    "results/rate_transfer",
)


@pytest.mark.parametrize("page", ["how-to/choose_a_method.md", "concepts/evidence.md"])
def test_the_numbers_are_those_of_the_results(page):
    measured = "".join((DOCS / f"{name}.md").read_text(encoding="utf-8") for name in SOURCES)
    prose = re.sub(
        r"^```.*?^```$|\[[^\]]*\]\([^)]*\)", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE
    )
    numbers = re.findall(r"[−+]?\d+\.\d+", prose)
    assert len(numbers) > 5
    for number in numbers:
        assert re.search(rf"(?<![\d.]){re.escape(number.lstrip('−+'))}(?!\d)", measured), number


def test_the_sections_are_those_of_a_report():
    named = [row[0] for row in cells(TEXTS["how-to/read_a_report.md"], "The sections below")]
    shown = {name for row in named for name in row.split(", ")}
    assert {*re.findall(r'Section\(\s*"[\w-]+", "([^"]+)"', read(report_page.__file__))} <= shown
    template = Path(report_page.__file__).parent / "templates" / "report.html"
    titles = re.findall(r"call section\('\w+', '([^']+)'\)", read(template))
    assert {*titles} - {"Verdict", "How to read it"} <= shown


def read(file):
    return Path(file).read_text(encoding="utf-8")


@cache
def messages():
    """All texts in the library's source, with an ellipsis for what is filled in."""
    found = []
    rooms = ROOT / "src" / "hiddenkey"
    files = [file for file in rooms.rglob("*.py") if not {"lab", "cli"} & {*file.parts}]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(parts))
    return "\n".join(found)


def test_the_messages_are_those_of_the_library():
    quoted = re.findall(r"“([^”]*)”", TEXTS["how-to/when_something_is_wrong.md"])
    assert len(quoted) > 5
    for message in quoted:
        assert message in messages(), message


def test_no_page_is_left_out_of_the_contents():
    for folder in FOLDERS:
        listed = re.findall(r"^([\w]+)$", blocks(TEXTS[f"{folder}/index.md"], "{toctree}")[0], re.M)
        pages = {Path(name).stem for name in TEXTS if name.startswith(f"{folder}/")}
        assert {*listed} == pages - {"index"}


@pytest.mark.parametrize("page", [name for name, text in TEXTS.items() if "$" in text])
def test_equations_are_written_as_the_site_reads_them(page):
    for wrong in (r"\\frac[^{]", r"'_", r"_\\text"):
        assert not re.search(wrong, TEXTS[page]), (
            "its parser takes the shorthand for something else"
        )
