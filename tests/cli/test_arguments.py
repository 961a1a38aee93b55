import contextlib
import re
from dataclasses import fields
from pathlib import Path

import pytest

from hiddenkey import ConfigError
from hiddenkey.cli.arguments import parse
from hiddenkey.cli.commands import COMMANDS
from hiddenkey.cli.foreign_names import _BY_NAME, _OURS, _REASONS
from hiddenkey.lab.plans.plan import Plan
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import validate
from hiddenkey.lab.tasks import TASKS

RECIPES = [
    path
    for path in sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    if path.stem != "demo" and not path.stem.startswith("compare")
]


def options(*words):
    return parse(TrainOptions, "train", words)


def faults(*words):
    with pytest.raises(ConfigError) as caught:
        options(*words)
    return caught.value.faults


def test_no_words_mean_the_defaults():
    assert options() == TrainOptions()


def test_hyphens_and_underscores_are_the_same():
    assert options("--learning-rate", "3e-4") == options("--learning_rate=0.0003")
    assert options("--learning-rate", "3e-4").learning_rate == 3e-4


@pytest.mark.parametrize(
    "words",
    [
        ("--per-method.hiddenkey-minus.keep-first", "false"),
        ("--per_method.hiddenkey-minus.keep_first=false",),
        ("--per-method.hiddenkey-minus", '{"keep_first": false}'),
    ],
)
def test_the_names_of_methods_keep_their_hyphens(words):
    plan = parse(Plan, "compare", ["--methods", "lora", "hiddenkey-minus", *words])
    assert plan.per_method == {"hiddenkey-minus": {"keep_first": False}}
    assert plan.settings()[1].keep_first is False


@pytest.mark.parametrize(
    "words",
    [
        ("--label-names", "[0,1]"), ("--label-names=[0, 1]",), ("--label-names", "0", "1"),
        ("--label-names", '["0", "1"]'), ("--label-names", "[0,'1']"),
    ],
)  # fmt: skip
def test_a_list_of_texts_needs_no_quotes(words):
    assert options(*words).label_names == ("0", "1")


@pytest.mark.parametrize("text", ["[", "[0", "[[1]]", "[" * 10_000, "[" + "9" * 5000 + "]"])
def test_a_list_in_odd_brackets_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert all(isinstance(name, str) for name in options(f"--label-names={text}").label_names)


def test_lists_truths_and_rates():
    found = options(
        "--layers", "0", "3", "--text-columns", "premise: a", "b", "--label-names", "1", "no",
        "--share-heads", "--keep-first", "false", "--rates.hidden", "0.2", "--rate", "0.3",
        "--target-modules", "[key, value]",
    )  # fmt: skip
    assert found.layers == (0, 3)
    assert found.text_columns == ("premise: a", "b")
    assert found.label_names == ("1", "no")
    assert (found.share_heads, found.keep_first) == (True, False)
    assert (found.rates, found.rate) == ({"hidden": 0.2}, 0.3)
    assert found.target_modules == ("key", "value")


def test_flags_win_over_the_file(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning_rate: 1e-3\nrates: {hidden: 0.3}\nlayers: [1]\nmax_steps: null\n")
    found = options("--config", str(path), "--learning-rate", "0.5", "--rates.input", "0.1")
    assert (found.learning_rate, found.layers) == (0.5, (1,))
    assert found.rates == {"hidden": 0.3, "input": 0.1}


def test_every_fault_of_flags_comes_together():
    assert faults("--learning-rte", "3", "--epochs", "x", "--layers", "0", "b", "--rank") == (
        "--learning-rte is not a setting; did you mean '--learning-rate'?",
        "--epochs must be float, got 'x'; see --help",
        "--layers must be a list of int or null, got '[0,b]'; see --help",
        "--rank needs a value, got none; give one",
    )


def test_every_fault_of_a_file_comes_together(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("learning_rte: 3\nrank: eight\nprecision: float16\nzzz: 1\nepochs: 3\n")
    assert faults("--config", str(path)) == (
        f"{path}: 'learning_rte' is not a setting; did you mean 'learning_rate'?",
        f"{path}: rank must be int, got 'eight'; see --help",
        f"{path}: precision must be one of float32, bfloat16, got 'float16'; see --help",
        f"{path}: 'zzz' is not a setting; see --help",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", r"a\.yaml: must be YAML \(.*\); fix the file"),
        ("- a", r"a\.yaml: must hold settings as 'name: value', got list"),
        ("", r"a\.yaml: must hold settings as 'name: value', got NoneType"),
        ("rank: 4\nseed: 1\nrank: 8", r"must be YAML \('rank' is there twice, in lines 1 and 3\)"),
        ("rates:\n  hidden: 0\n  hidden: 0.1", r"'hidden' is there twice, in lines 2 and 3"),
    ],
)
def test_corrupt_file_is_named(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        options("--config", str(tmp_path / "a.yaml"))


def test_missing_file_is_named():
    assert faults("--config", "no.yaml") == (
        "--config must be a YAML file or a recipe, got 'no.yaml'; no such file or recipe;"
        " see 'hiddenkey recipes' for all names",
    )


@pytest.mark.parametrize(
    "word", ["minilm_headlines_lora", "minilm_headlines_lora.yaml", "recipes/minilm_headlines_lora"]
)
@pytest.mark.parametrize("equals", [False, True])
def test_a_recipe_is_found_by_its_name(word, equals, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = options(*([f"--config={word}"] if equals else ["--config", word]), "--seed", "3")
    assert (found.method, found.train_size, found.seed) == ("lora", 200, 3)


def test_a_file_wins_over_a_recipe_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm_headlines_lora").write_text("rank: 3\n")
    assert options("--config", "minilm_headlines_lora").rank == 3


def test_a_similar_recipe_is_suggested():
    (fault,) = faults("--config", "minilm_headline_lora")
    assert "did you mean 'minilm_headlines_lora'" in fault


def test_stray_words_are_refused():
    assert "unrecognized arguments: minilm" in faults("minilm")[0].lower()


def test_help_shows_flags_types_and_units(capsys):
    with pytest.raises(SystemExit) as ended:
        options("--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert "--rank RANK Rank of the matrices of LoRA and DoRA." in shown
    assert (
        "--seed SEED Seed of new weights, data order and dropout. (type: int, default: 0)" in shown
    )
    assert "--learning_rate" not in shown


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        ("--lr 1e-4", "here it is --learning-rate"),
        ("--per-device-train-batch-size 8", "here it is --batch-size"),
        ("--num_train_epochs 3", "here it is --epochs"),
        ("--gradient-accumulation-steps 2", "here it is --gradient-accumulation"),
        ("--lora-r 8", "here it is --rank"),
        ("--model-name-or-path bert", "here it is --model"),
        ("--output-dir out", "here it is --output"),
        ("--bf16", "here it is --precision bfloat16"),
        ("--load-best-model-at-end", "here it is --keep best"),
        ("--resume-from-checkpoint x", "here it is --resume FOLDER"),
        ("--dataset-name sst2", "a task's data are read by --task and --data, your own files by"),
        ("--fp16", "float16 is not trained in; take --precision bfloat16"),
    ],
)
def test_names_of_other_trainers_are_understood(foreign, ours):
    (fault,) = faults(*foreign.split())
    assert fault.startswith(f"{foreign.split()[0].replace('_', '-')} is not a setting; {ours}")


def test_the_same_in_files_and_where_the_setting_belongs_elsewhere(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("lora_r: 8\n")
    assert faults("--config", str(path)) == (
        f"{path}: 'lora_r' is not a setting; here it is --rank",
    )
    with pytest.raises(ConfigError) as caught:
        parse(Plan, "compare", ["--lr", "1e-4", "--lora-r", "8", "--optim", "sgd"])
    assert caught.value.faults == (
        "--lr is not a setting; here it is learning_rate, which is a setting of the runs; write it"
        " under common: or give --common.learning_rate",
        "--lora-r is not a setting; here it is --ranks",
        "--optim is not a setting; the optimiser is AdamW",
    )


def test_every_foreign_name_leads_to_a_setting():
    known = {field.name for field in fields(TrainOptions)}
    assert {ours.partition(" ")[0] for ours in _OURS} <= known
    assert not known & (_BY_NAME.keys() | _REASONS.keys())
    assert not _BY_NAME.keys() & _REASONS.keys()


TITLES = {
    TrainOptions: "data, model and adapter, method, training, what is used at inference, evaluation"
    " and generation, run folder",
    Plan: "what is compared, data, a training command of your own, settings of the runs, folder and"
    " workers, what is done",
}


@pytest.mark.parametrize("kind", TITLES)
def test_help_is_grouped_and_shows_each_setting_once(kind, capsys):
    with pytest.raises(SystemExit):
        parse(kind, "x", ["--help"])
    shown = capsys.readouterr().out.partition("\n\n")[2]
    assert re.findall(r"^(\S.*):$", shown, re.MULTILINE) == ["options", *TITLES[kind].split(", ")]
    flags = re.findall(r"^  --([a-z-]+)", shown, re.MULTILINE)
    names = [field.name.replace("_", "-") for field in fields(kind)]
    assert sorted(flags) == sorted([*names, "config", "print-config"])
    parts = re.split(r"^\S.*:$", shown, flags=re.MULTILINE)
    if kind is TrainOptions:
        assert "--learning-rate" in parts[5]
        assert "--beams" in parts[7]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid_and_name_their_command(recipe):
    found = options("--config", str(recipe))
    if TASKS[found.task].needs == "folder":
        found = options("--config", str(recipe), "--data", "folder")
    assert validate(found) == []
    command = f"#   hiddenkey train --config recipes/{recipe.name}"
    assert command in recipe.read_text()


def test_both_minilm_recipes_differ_in_the_method_alone():
    import yaml

    lora, hiddenkey = (
        yaml.safe_load((RECIPES[0].parent / f"minilm_headlines_{name}.yaml").read_text())
        for name in ("lora", "hiddenkey")
    )
    differing = {name for name in {*lora, *hiddenkey} if lora.get(name) != hiddenkey.get(name)}
    assert differing <= {"method", "rate", "rates"}


@pytest.mark.parametrize(
    "words",
    [
        ("--rates.hidden", "1" * 400), ("--rates", f'{{"hidden": {"1" * 400}}}'),
        ("--learning-rate", "1" * 400), ("--layers", "1" * 400), ("--max-steps", "-" + "1" * 400),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_numbers_of_hundreds_of_digits_are_refused(words, tmp_path):
    (fault,) = faults(*words)
    assert re.match(rf"{words[0]} must be .*, got .*; give a smaller number", fault)
    path = tmp_path / "run.yaml"
    path.write_text(f"{words[0][2:].replace('.', ': {')}: {words[1]}{'}' * ('.' in words[0])}")
    (fault,) = faults("--config", str(path))
    assert fault == f"{path}: must hold numbers of at most 300 digits; give a smaller one"


def test_a_row_of_whole_numbers_is_named_by_its_ends():
    read = COMMANDS["compare"].read
    assert read("compare", ["--seeds", "0-3", "7"]).seeds == (0, 1, 2, 3, 7)
    for wrong in ("3-0", "0-99999999", "a-b"):
        with pytest.raises(ConfigError, match="--seeds must be"):
            read("compare", ["--seeds", wrong])
