import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hiddenkey.cli.main import main
from hiddenkey.lab.plans import recipes

ROOT = Path(__file__).parents[2]
LIGHT = """
import sys
from hiddenkey.cli.main import main
assert main(["recipes"]) == 0
heavy = {"torch", "transformers", "jsonargparse", "rich", "yaml"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_every_recipe_is_listed_with_what_it_is_for(capsys):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert shown.isascii(), "a terminal need not have more"
    paths = [path for path in files(recipes.FOLDER) if path.suffix == ".yaml"]
    assert len(paths) > 35
    for path in paths:
        first = (recipes.FOLDER / path).read_text(encoding="utf-8").partition("\n")[0]
        rows = [row.split(maxsplit=1) for row in shown.splitlines()]
        assert [path.with_suffix("").as_posix(), first.removeprefix("# ")] in rows


def test_first_lines_stand_for_themselves():
    for recipe in recipes.recipes().values():
        assert recipe.summary[-1] in ".?", recipe.name
        assert recipe.command.startswith(("hiddenkey ", "accelerate launch ")), recipe.name


def test_groups_say_which_command_takes_them(capsys):
    main(["recipes"])
    heading, *rows = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert heading == "single runs: hiddenkey train --config NAME"
    assert any(row.startswith("  minilm_headlines_lora ") for row in rows)
    assert not any("compare" in row for row in rows)


def test_the_list_needs_the_standard_library_alone():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT / "src", capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "word", ["compare_search", "compare_search.yaml", "recipes/compare_search"]
)
def test_a_copy_is_what_the_recipe_is(word, capsys):
    assert main(["recipes", word]) == 0
    copy = Path("recipes/compare_search.yaml")
    assert files(Path()) == [copy]
    assert copy.read_bytes() == (recipes.FOLDER / "compare_search.yaml").read_bytes()
    assert capsys.readouterr().out.splitlines() == [
        "written: recipes/compare_search.yaml",
        "run it with: hiddenkey compare recipes/compare_search.yaml",
    ]


def test_a_copy_elsewhere_names_its_own_place(capsys):
    assert main(["recipes", "distributed/zero3", "--output", "my own"]) == 0
    assert files(Path()) == [Path(f"my own/distributed/zero3.{kind}") for kind in ("json", "yaml")]
    copy = Path("my own/distributed/zero3.yaml").read_text()
    settings = yaml.safe_load(copy)["deepspeed_config"]["deepspeed_config_file"]
    assert settings == "my own/distributed/zero3.json"
    assert "recipes/" not in copy
    assert "accelerate launch --config_file 'my own/distributed/zero3.yaml' script.py" in (
        capsys.readouterr().out
    )


def test_nothing_is_overwritten(capsys):
    mine = Path("recipes/compare_search.yaml")
    mine.parent.mkdir()
    mine.write_text("mine")
    for words in (["compare_search"], ["--all"]):
        assert main(["recipes", *words]) == 2
        assert "must not overwrite a file, got recipes/compare_search.yaml;" in (
            capsys.readouterr().err
        )
    assert files(Path()) == [mine]
    assert mine.read_text() == "mine"


def test_all_are_copied(capsys):
    assert main(["recipes", "--all", "--output", "all"]) == 0
    assert files(Path("all")) == files(recipes.FOLDER)
    assert main(["recipes", "--all", "--output", "all"]) == 2
    assert f"got all/claims/c1.yaml and {len(recipes.recipes()) - 1} more;" in (
        capsys.readouterr().err
    )


def test_a_claim_comes_with_the_scales(capsys):
    assert main(["recipes", "claims/c1"]) == 0
    assert main(["recipes", "claims/x2"]) == 0, "the scales are there already"
    found = [path.stem for path in files(Path("recipes/claims"))]
    assert found == ["c1", "base", "decoders", "medium", "paper", "small", "tiny", "x2"]
    command = capsys.readouterr().out.splitlines()[-1].removeprefix("run it with: hiddenkey ")
    assert command == "claims X2 --scale small --data DATA_FOLDER --plans recipes/claims"
    page = command.replace("small --data DATA_FOLDER", "tiny --page-only --output out")
    assert main(page.split()) == 0


def test_scales_that_were_changed_are_kept():
    assert main(["recipes", "claims/c1"]) == 0
    Path("recipes/claims/scales/tiny.yaml").write_text("mine")
    assert main(["recipes", "claims/x2"]) == 2
    assert not Path("recipes/claims/x2.yaml").exists()


def test_a_scale_is_named_by_its_copy(capsys):
    assert main(["recipes", "claims/scales/tiny", "--output", "o"]) == 0
    assert "run it with: hiddenkey claims --scale o/claims/scales/tiny.yaml" in (
        capsys.readouterr().out
    )


def test_a_folder_of_recipes_is_copied_whole(capsys):
    assert main(["recipes", "distributed"]) == 0
    assert [path.name for path in files(Path())] == [
        "ddp.yaml", "fsdp2.yaml", "zero3.json", "zero3.yaml"
    ]  # fmt: skip
    assert "the command that runs a recipe is in its header" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["compare_serch"], "got 'compare_serch'; did you mean 'compare_search' or "),
        (["zero3"], "did you mean 'distributed/zero3'?"),
        (["zzz"], "got 'zzz'; see 'hiddenkey recipes' for all names"),
        (["compare_search", "--all"], "--all copies every recipe, got 'compare_search' too;"),
        (["--output", "x"], "--output is for copies, got 'x' without a recipe;"),
        (["--al"], "unrecognized arguments: --al; see hiddenkey recipes --help"),
        (["compare_search", "--output", "file"], "output must be a folder that can be written"),
    ],
)
def test_a_mistake_is_told(words, told, capsys):
    Path("file").write_text("")
    assert main(["recipes", *words]) == 2
    assert told in capsys.readouterr().err
    assert files(Path()) == [Path("file")]


def test_long_lines_are_broken_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["recipes"]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if row.startswith("  ")]
    assert max(map(len, rows)) <= 80


def test_the_folder_at_the_root_is_the_packages():
    assert (ROOT / "recipes").resolve() == recipes.FOLDER.resolve()
