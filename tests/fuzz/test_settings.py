"""Plans, claims, scales, settings and command lines from mutated files and words."""

import contextlib
import io
import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import hiddenkey
from fuzz.values import TEXTS, damaged, fuzzed, mutated, refusal
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.cli.main import main
from hiddenkey.lab.claims.reading import default_folder, read_plans
from hiddenkey.lab.plans import validation
from hiddenkey.lab.run.preparation import validate

RECIPES = Path(hiddenkey.__file__).parent / "recipes"
PLANS = [path.read_bytes() for path in sorted(RECIPES.glob("compare*.yaml"))]
RUNS = [path.read_bytes() for path in sorted(RECIPES.glob("*.yaml")) if path.stem != "demo"]
RUNS = [content for content in RUNS if content not in PLANS]
CLAIM = (default_folder() / "c1.yaml").read_bytes()
SCALE = (default_folder() / "scales" / "tiny.yaml").read_bytes()


def files_like(contents):
    """Damaged bytes, and YAML written from a mutated tree."""
    trees = st.sampled_from([yaml.safe_load(content) for content in contents])
    return st.one_of(
        st.sampled_from(contents).flatmap(damaged),
        trees.flatmap(mutated).map(lambda tree: yaml.safe_dump(tree).encode()),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("settings")


def read(command, path):
    return COMMANDS[command].read(command, ["--config", str(path)])


@fuzzed(25)
@given(files_like(PLANS))
def test_a_plan(folder, content):
    path = folder / "plan.yaml"
    path.write_bytes(content)
    refusal(lambda: validation.validate(read("compare", path)))


@fuzzed(25)
@given(files_like(RUNS))
def test_settings_of_a_run(folder, content):
    path = folder / "run.yaml"
    path.write_bytes(content)
    refusal(lambda: validate(read("train", path)))


@fuzzed(25)
@given(claim=files_like([CLAIM]), scale=files_like([SCALE]), which=st.booleans())
def test_claims_and_scales(tmp_path_factory, claim, scale, which):
    folder = tmp_path_factory.getbasetemp() / "claims"
    (folder / "scales").mkdir(parents=True, exist_ok=True)
    (folder / "c1.yaml").write_bytes(claim if which else CLAIM)
    (folder / "scales" / "tiny.yaml").write_bytes(SCALE if which else scale)
    refusal(read_plans, folder, "tiny", ("C1",))


LINES = [
    "compare --tasks file --methods lora hiddenkey --rates 0.1 0.2 --dry-run --seeds 0 1",
    "train --task file --method dropkey --rate 0.1 --max-steps 3 --layers 0 1 --rates.hidden 0.2",
    "doctor minilm --method hiddenkey --layers 0 --meta --json",
    "score cola --references a.tsv --outputs b.txt",
    "estimate --model llama2-7b --rank 8",
    "methods --json",
    "claims C1 --scale tiny --dry-run",
    "report runs/none --baseline lora",
    "recipes copy nothing",
]


@st.composite
def command_lines(draw):
    words = shlex.split(draw(st.sampled_from(LINES)))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(1, len(words)))
        odd = st.one_of(
            TEXTS, st.sampled_from(["--", "--x=", "1_000", "0x10", "1e999", "[", "null"])
        )
        if draw(st.booleans()) and place < len(words):
            words[place] = draw(odd)
        else:
            words.insert(place, draw(odd))
    return words


@fuzzed(25)
@given(command_lines())
def test_a_command_line(monkeypatch_module, words):
    """It is refused in lines that say why, or read: nothing is run here."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(words)
        except SystemExit as ended:  # --help
            status = ended.code
    assert status in (0, 1, 2)
    shown = errors.getvalue()
    assert "not foreseen" not in shown
    assert "Traceback" not in shown
    assert bool(shown) == (status == 2)


@pytest.fixture(scope="module")
def monkeypatch_module():
    """Commands that would train or load a model only read their settings."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("train", "compare", "claims", "doctor", "estimate"):
            module = __import__(COMMANDS[name].module, fromlist=["run"])
            patch.setattr(module, "run", lambda options: 0)
        yield
