import json
from dataclasses import replace

import pytest

from hiddenkey import ConfigError, method
from hiddenkey.lab.plans.data import Data
from hiddenkey.lab.run.dropout import dropout_config
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.preparation import load_splits, prepare, validate
from hiddenkey.lab.tasks.classes import described


def test_options_reach_the_dropout_configuration():
    config = dropout_config(
        TrainOptions(
            method="hiddenkey",
            rate=0.3,
            rates={"hidden": 0.2},
            consistency_weight=2.0,
            consistency_every=3,
            consistency_fraction=0.5,
            consistency_backward="both",
            layers=(1,),
            share_heads=True,
            keep_first=False,
            keep_model_dropout=True,
        )
    )
    assert {drop.position: drop.rate for drop in config.drops} == {
        "attention_logits": 0.3,
        "hidden": 0.2,
    }
    loss = config.consistency
    assert (loss.weight, loss.every, loss.fraction, loss.backward) == (2.0, 3, 0.5, "both")
    assert (config.layers, config.share_heads) == ((1,), True)
    assert (config.keep_first, config.keep_model_dropout) == (False, True)


def test_faults_of_rates_and_loss_come_together():
    with pytest.raises(ConfigError) as caught:
        dropout_config(TrainOptions(rate=1.5, consistency_weight=-1.0))
    text = str(caught.value)
    assert "rate must be in [0, 1), got 1.5" in text
    assert "consistency.weight must be a finite number of at least 0, got -1.0" in text


def test_loss_settings_for_a_method_without_loss_are_refused():
    with pytest.raises(
        ConfigError, match="method 'dropkey' has no consistency loss, got consistency_every"
    ):
        dropout_config(TrainOptions(method="dropkey", consistency_every=2))


def test_faults_of_settings_method_and_data_come_together(tmp_path):
    options = TrainOptions(
        rank=0, method="hidenkey", task="file", text_columns=("text",),
        train_file=str(tmp_path / "a.csv"), eval_file=str(tmp_path / "b.csv"),
    )  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        prepare(options)
    faults = caught.value.faults
    assert [fault.split(" ")[0] for fault in faults[:2]] == ["rank", "method"]
    assert "did you mean 'hiddenkey" in faults[1]
    assert faults[2:] == (
        f"{tmp_path / 'a.csv'}: does not exist; check the path",
        f"{tmp_path / 'b.csv'}: does not exist; check the path",
    )


def test_sizes_beyond_the_data_are_refused_together():
    with pytest.raises(ConfigError) as caught:
        load_splits(TrainOptions(train_size=2000, eval_size=1001))
    assert caught.value.faults == (
        "train_size must be at most 1096, the examples of task 'headlines', got 2000;"
        " leave it out to use all",
        "eval_size must be at most 1000, the examples of task 'headlines', got 1001;"
        " leave it out to use all",
    )


def test_each_seed_can_draw_its_own_training_examples_from_one_pool():
    options = TrainOptions(train_size=50, eval_size=60, resample=True)
    one, two = (load_splits(replace(options, seed=seed)) for seed in (0, 1))
    assert one.evaluation == two.evaluation
    assert len({*one.train} & {*two.train}) < 15
    assert load_splits(replace(options, method="lora")).train == one.train
    assert one.fingerprint() == two.fingerprint()
    sizes = (replace(options, train_size=51), replace(options, eval_size=59))
    others = [
        load_splits(each).fingerprint() for each in (replace(options, resample=False), *sizes)
    ]
    assert len({one.fingerprint(), *others}) == 4
    data = Data()
    assert data.splits(options).train == one.train
    assert data.splits(replace(options, seed=1)).train == two.train
    with pytest.raises(ConfigError, match="resample draws train_size examples anew"):
        prepare(TrainOptions(resample=True))


def test_data_depend_on_the_data_seed_and_not_on_the_seed():
    options = TrainOptions(train_size=50, eval_size=60)
    base = load_splits(options)
    assert (len(base.train), len(base.evaluation)) == (50, 60)
    assert load_splits(replace(options, seed=5, method="lora")) == base
    other = load_splits(replace(options, data_seed=1))
    assert other.train != base.train
    assert other.evaluation == base.evaluation
    assert other.fingerprint() != base.fingerprint()


def test_nothing_of_training_and_evaluation_is_the_same():
    splits = load_splits(TrainOptions(train_size=200))
    assert not {e.texts for e in splits.train} & {e.texts for e in splits.evaluation}


def test_neftune_needs_an_embedding_that_transformers_finds(tiny_options):
    options = replace(tiny_options, adapter="prefix", neftune_alpha=5.0)
    with pytest.raises(
        ConfigError, match=r"neftune_alpha is for the adapters lora and .* 'prefix'"
    ):
        prepare(options)


def test_the_update_is_that_of_lora_and_dora():
    options = TrainOptions(method="hiddenkey", also=("coto",), adapter="ia3")
    with pytest.raises(ConfigError, match=r"hiddenkey \+ coto drops the update .* 'ia3'"):
        dropout_config(options)
    config = dropout_config(replace(options, adapter="dora"))
    assert config.schedule == method("coto").schedule
    assert config.schedule.positions == ("update",)


def test_method_is_checked_before_a_model_is_loaded(monkeypatch, tiny_options):
    from hiddenkey.lab.run import building, training

    def fail(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(building, "load_model", fail)
    with pytest.raises(ConfigError, match="method must be one of"):
        training.train(replace(tiny_options, method="nothing"))
    with pytest.raises(ConfigError, match="must have a column 'body', got 'text', 'label'"):
        training.train(replace(tiny_options, text_columns=("body",)))


def test_a_holdout_is_part_of_the_training_examples_alone():
    options = TrainOptions(train_size=80, eval_size=60)
    whole = load_splits(options)
    halved = load_splits(replace(options, holdout=0.25))
    assert (len(halved.train), len(halved.evaluation)) == (60, 20)
    assert sorted(map(repr, halved.train + halved.evaluation)) == sorted(map(repr, whole.train))
    shares = [sum(e.label == c for e in halved.evaluation) for c in range(5)]
    assert min(shares) >= 3  # of 20: classes keep their shares
    assert load_splits(replace(options, holdout=0.25)).evaluation == halved.evaluation
    assert load_splits(replace(options, holdout=0.25, data_seed=1)).evaluation != halved.evaluation


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, float("nan")])
def test_a_holdout_of_nothing_or_all_is_refused(share):
    with pytest.raises(ConfigError, match=r"holdout must be in \(0, 1\)"):
        prepare(TrainOptions(holdout=share))


def test_a_holdout_that_leaves_no_example_on_one_side_is_refused():
    with pytest.raises(ConfigError, match=r"must leave examples on both sides, got 0\.01 of"):
        prepare(TrainOptions(train_size=20, holdout=0.01))


def one_file(path, rows, **changes):
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    options = TrainOptions(task="file", train_file=str(path), text_columns=("text",), holdout=0.2)
    return load_splits(replace(options, **changes))


def texts(examples):
    return [example.texts[0] for example in examples]


ROWS = [(f"t{index}", "abc"[index % 5 // 2]) for index in range(100)]  # 40 a, 40 b, 20 c


def test_one_file_is_held_out_by_class_and_by_data_seed_alone(tmp_path):
    splits = one_file(tmp_path / "a.csv", ROWS)
    assert (len(splits.train), len(splits.evaluation)) == (80, 20)
    assert [[e.label for e in splits.evaluation].count(c) for c in range(3)] == [8, 8, 4]
    assert not {*texts(splits.train)} & {*texts(splits.evaluation)}
    for changes in ({"seed": 3}, {"method": "lora"}, {"train_size": 30}):
        other = one_file(tmp_path / "a.csv", ROWS, **changes)
        assert other.evaluation == splits.evaluation, "judged on the same examples"
    assert len(other.train) == 30
    assert {*texts(other.train)} <= {*texts(splits.train)}
    assert one_file(tmp_path / "a.csv", ROWS, data_seed=1).evaluation != splits.evaluation


def test_equal_texts_are_on_one_side_and_are_counted(tmp_path):
    rows = [*ROWS, *((f" T{index} ", label) for index, (_, label) in enumerate(ROWS[:50]))]
    for seed in range(5):
        splits = one_file(tmp_path / "a.csv", rows, data_seed=seed)
        sides = [
            {text.strip().lower() for text in texts(part)}
            for part in (splits.train, splits.evaluation)
        ]
        assert not sides[0] & sides[1]
        assert len(splits.train) + len(splits.evaluation) == 150
        assert 28 <= len(splits.evaluation) <= 30
    assert splits.notes == (
        "holdout: 50 of 150 examples repeat the text of another one; equal texts are on one side"
        " only",
    )
    assert described(splits)[-1] == splits.notes[0]


def test_what_misleads_is_told_of_what_is_left_after_drawing(tmp_path):
    rows = [*((f"t{index}", "a") for index in range(99)), ("rare", "b")]
    path = tmp_path / "a.csv"
    said = "all evaluation examples are 'a', so always answering that is right"
    assert one_file(path, rows).notes == (said,), "the one b is trained on"
    leaking = one_file(path, rows, holdout=None, eval_file=str(path), eval_size=50, train_size=50)
    shared = {*texts(leaking.train)} & {*texts(leaking.evaluation)}
    assert leaking.notes[0].startswith(f"{len(shared)} of 50 evaluation examples have the text")


@pytest.mark.parametrize("rows", [[("x", 1.5)], [("x", 2), ("y", 2.0)]])
def test_scores_that_no_correlation_can_judge_are_refused(tmp_path, rows):
    path, judged = tmp_path / "a.csv", tmp_path / "b.csv"
    judged.write_text("text,label\n" + "".join(f"{text},{score}\n" for text, score in rows))
    numbers = [(f"t{index}", index) for index in range(9)]
    with pytest.raises(
        ConfigError, match=rf"evaluation scores must differ, .*, got {len(rows)} of"
    ):
        one_file(path, numbers, holdout=None, eval_file=str(judged), regression=True)
    splits = one_file(path, numbers, regression=True)
    assert len({example.label for example in splits.evaluation}) == 2


def test_a_file_of_one_text_alone_cannot_be_held_out(tmp_path):
    with pytest.raises(
        ConfigError, match=r"holdout must leave examples on both sides, got 0\.2 of 6"
    ):
        one_file(tmp_path / "a.csv", [("same", "a"), ("same", "b")] * 3)
    with pytest.raises(ConfigError) as caught:
        one_file(tmp_path / "a.csv", [("one", "a"), ("two", "b")] * 40)
    assert caught.value.faults == (
        "holdout must leave examples on both sides, got 0.2 of 80 training examples (different"
        " texts: 2; equal texts stay on one side); take another share or more different texts",
    )


def test_sizes_of_one_file_are_those_of_its_parts(tmp_path):
    with pytest.raises(ConfigError) as caught:
        one_file(tmp_path / "a.csv", ROWS, train_size=81, eval_size=21)
    assert [fault.split(",")[0] for fault in caught.value.faults] == [
        "train_size must be at most 80",
        "eval_size must be at most 20",
    ]


def test_held_out_prompts_have_all_their_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [
        {"prompt": f"p{index // 2}", "completion": f"a longer text {index}"} for index in range(40)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    options = TrainOptions(task="completion", train_file=str(path), holdout=0.25)
    prepared = prepare(options)
    splits = prepared.splits
    assert (len(splits.train), len(splits.evaluation)) == (30, 5)
    assert {len(example.references) for example in splits.evaluation} == {2}
    assert not {*texts(splits.train)} & {*texts(splits.evaluation)}
    assert prepared.task.metrics[0] == "BLEU"
    path.write_text("\n".join(json.dumps({**row, "completion": "no"}) for row in rows))
    assert prepare(options).task.metrics[0] == "exact_match"


@pytest.mark.parametrize("task", ["file", "completion"])
def test_without_examples_to_evaluate_on_both_ways_are_told(tmp_path, task):
    options = TrainOptions(task=task, train_file=str(tmp_path / "a.csv"), text_columns=("text",))
    with pytest.raises(ConfigError) as caught:
        prepare(options)
    assert caught.value.faults == (
        f"task {task!r} needs examples to evaluate on, got none; give --eval-file FILE, or"
        " --holdout 0.2 to hold out a fifth of the training file",
    )


@pytest.mark.parametrize("name", ["9" * 3000, "a/" + "9" * 3000, "9" * 3000 + ".gguf"])
def test_a_model_name_that_no_file_system_takes_is_no_crash(name):
    options = TrainOptions(model=name)
    assert [fault for fault in validate(options) if "model file" in fault] == [
        f"model file {name!r} does not exist; check the path"
    ] * name.endswith(".gguf")
