import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hiddenkey import ConfigError
from hiddenkey.lab import scores
from hiddenkey.lab.run.encoding import collator, encode
from hiddenkey.lab.run.generation import NoRepeatInCompletion, generate
from hiddenkey.lab.run.leaving import Origin
from hiddenkey.lab.run.models import load_model
from hiddenkey.lab.run.options import TrainOptions
from hiddenkey.lab.run.prediction import load_trained
from hiddenkey.lab.run.preparation import prepare
from hiddenkey.lab.run.training import train
from hiddenkey.lab.scores.java import MissingToolError
from hiddenkey.lab.tasks import Example

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def say(index):
    """An order to repeat a word, with two ways to do so."""
    return [
        {"prompt": f"w{index} is", "completion": f"w{index} w{index} cat"},
        {"prompt": f"w{index} is", "completion": f"cat w{index}"},
    ]


@pytest.fixture(autouse=True)
def _no_java(monkeypatch):
    """Starting Java takes longer than everything else here."""

    def find():
        raise MissingToolError("no Java here")

    monkeypatch.setattr(scores, "find_tools", find)


@pytest.fixture
def options(tmp_path, tiny_language_model):
    return TrainOptions(
        model=str(tiny_language_model),
        task="completion",
        train_file=write(tmp_path / "train.jsonl", [row for i in range(12) for row in say(i)]),
        eval_file=write(tmp_path / "eval.jsonl", [row for i in range(5) for row in say(i)]),
        rank=4,
        max_length=16,
        batch_size=8,
        max_steps=6,
        evaluations=2,
        learning_rate=1e-2,
        beams=2,
        max_new_tokens=5,
        generation_batch_size=2,
        output=str(tmp_path / "run"),
    )


def test_held_out_prompts_choose_the_weights_that_generate(options):
    train(replace(options, inference="chosen", choice_share=0.25, learning_rate=3e-2))
    line = json.loads((options.folder / "metrics.jsonl").read_text().splitlines()[-1])
    origin = Origin.load(options.folder / "adapter")
    losses = line["choice_loss"]
    assert list(losses)[:3] == ["last", "average", "ema"]
    assert origin.inference.weights == min(losses, key=losses.__getitem__)
    prepared = prepare(replace(options, inference="chosen", choice_share=0.25))
    assert not {e.texts for e in prepared.choice} & {e.texts for e in prepared.trained}
    model, tokenizer = load_trained(
        options.folder / "adapter", origin, origin.options(options.model)
    )
    prompts = ["w0 is", "w1 is", "w2 is", "w3 is", "w4 is"]
    text = (options.folder / "generations.jsonl").read_text()
    made = [json.loads(row) for row in text.splitlines()]
    said = {row["prompt"]: row["output"] for row in made}
    assert generate(model, tokenizer, prompts, options) == [said[each] for each in prompts]


def test_one_file_of_conversations_is_enough(options, tmp_path):
    turns = [
        [{"role": "user", "content": f"w{i}"}, {"role": "assistant", "content": f"w{i} cat"}]
        for i in range(12)
    ]
    file = write(tmp_path / "chat.jsonl", [{"messages": each} for each in turns])
    result = train(replace(options, train_file=file, eval_file=None, holdout=0.25, max_length=24))
    assert result.metrics["exact_match"].last is not None
    lines = (Path(options.output) / "generations.jsonl").read_text().splitlines()
    texts = {text["prompt"]: text["references"] for text in map(json.loads, lines)}
    assert len(texts) == 3
    for prompt, references in texts.items():
        word = prompt.removeprefix("User: ").removesuffix("\nAssistant:")
        assert references == [f"{word} cat"]


@pytest.fixture(scope="module")
def loaded(tiny_language_model):
    return load_model(str(tiny_language_model), "generation", (), "float32")


def test_a_run_ends_with_texts_and_scores(options):
    result = train(options)
    folder = Path(options.output)
    texts = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    assert [text["prompt"] for text in texts] == [f"w{i} is" for i in range(5)]
    assert texts[1]["references"] == ["w1 w1 cat", "cat w1"]
    scores = json.loads((folder / "scores.json").read_text())
    assert result.main_metric == "exact_match"
    assert result.metrics["BLEU"].last == scores["all"]["BLEU"]
    assert result.metrics["BLEU"].best_step == result.steps
    assert set(scores["all"]) == {"BLEU", "NIST", "exact_match", "token_f1"}
    assert scores["skipped"] == dict.fromkeys(["METEOR", "ROUGE_L", "CIDEr"], "no Java here")
    assert result.metrics["METEOR"].last is None
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert ["eval_BLEU" in line for line in lines] == [False, True]
    assert all(line["consistency_loss"] > 0 for line in lines)
    assert result.gap["loss"] is not None
    assert result.gap["BLEU"] is None


def answer(options, file):
    """The same run with one-word answers."""
    rows = [{"prompt": f"w{i} is", "completion": f"w{i}"} for i in range(12)]
    return replace(options, train_file=write(file, rows), eval_file=write(file, rows), eval_size=4)


def test_short_answers_are_judged_by_exact_match(options, tmp_path):
    result = train(answer(options, tmp_path / "short.jsonl"))
    scores = json.loads((Path(options.output) / "scores.json").read_text())
    assert result.main_metric == "exact_match"
    assert result.metrics["exact_match"].last == scores["all"]["exact_match"]
    assert "BLEU counts runs of up to four" in scores["note"]
    assert json.loads((Path(options.output) / "data.json").read_text())["main_metric"]
    assert train(replace(answer(options, tmp_path / "short.jsonl"), resume=True)) == result


def test_a_run_of_before_the_choice_keeps_its_main_metric(options, tmp_path):
    short = answer(options, tmp_path / "short.jsonl")
    train(short)
    folder = Path(options.output)
    data = json.loads((folder / "data.json").read_text())
    del data["main_metric"]
    (folder / "data.json").write_text(json.dumps(data))
    (folder / "result.json").unlink()
    assert train(replace(short, resume=True)).main_metric == "BLEU"


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prefix", "full"])
def test_a_stored_adapter_writes_the_stored_texts(options, adapter):
    from peft import PeftModel

    options = replace(options, method="hiddenkey-minus", adapter=adapter, rank=8)
    train(options)
    folder = Path(options.output)
    texts = [json.loads(line) for line in (folder / "generations.jsonl").read_text().splitlines()]
    stored = folder / "adapter" if adapter == "full" else options.model
    model, tokenizer = load_model(str(stored), "generation", (), "float32")
    if adapter != "full":
        model = PeftModel.from_pretrained(model, folder / "adapter")
    again = generate(model, tokenizer, [text["prompt"] for text in texts], options)
    assert again == [text["output"] for text in texts]
    assert any(again)


def test_a_finished_training_is_scored_when_the_run_is_taken_up_again(options, monkeypatch):
    from hiddenkey.lab.run import generation

    def fail(*_, **__):
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr(generation, "generate", fail)
        with pytest.raises(InterruptedError):
            train(options)
    assert not (Path(options.output) / "result.json").exists()
    taken_up = train(replace(options, resume=True))
    straight = train(replace(options, output=options.output + "-2"))
    assert taken_up.metrics == straight.metrics
    assert taken_up.eval_loss == straight.eval_loss


def test_only_the_target_and_the_end_are_labelled(loaded):
    _, tokenizer = loaded
    rows = encode([Example(("w1 is",), "cat w2")], tokenizer, 16, "generation")
    tokens = tokenizer.convert_ids_to_tokens(rows[0]["input_ids"])
    assert tokens[-3:] == ["cat", "w2", "</s>"]
    shown = [label for label in rows[0]["labels"] if label != -100]
    assert tokenizer.convert_ids_to_tokens(shown) == ["cat", "w2", "</s>"]


def test_padding_is_on_the_right_and_counts_in_no_loss(loaded):
    _, tokenizer = loaded
    examples = [Example(("w1 is",), "cat"), Example(("w1 is",), "cat w2 w3 w4")]
    batch = collator(tokenizer, "generation")(encode(examples, tokenizer, 16, "generation"))
    padded = batch["attention_mask"][0] == 0
    assert padded.tolist() == [False] * 4 + [True] * 3
    assert (batch["labels"][0][padded] == -100).all()
    # the end of the text is the padding token too, and still has its label
    assert batch["labels"][0][3] == tokenizer.eos_token_id == tokenizer.pad_token_id


def test_a_prompt_that_leaves_no_room_is_refused(options):
    with pytest.raises(ConfigError, match="max_length must leave 8 tokens for the target, got 8"):
        train(replace(options, max_length=8))


def test_batches_do_not_change_what_is_generated(loaded):
    model, tokenizer = loaded
    prompts = ["w1 is", "w2", "w3 w4 w5 w6 is", "cat w7 is"]
    settings = TrainOptions(beams=3, max_new_tokens=6)
    alone = generate(model, tokenizer, prompts, replace(settings, generation_batch_size=1))
    together = generate(model, tokenizer, prompts, replace(settings, generation_batch_size=3))
    assert alone == together


def test_the_model_keeps_its_mode_and_progress_is_told(loaded):
    model, tokenizer = loaded
    counts = []
    for training in (True, False):
        model.train(training)
        settings = TrainOptions(beams=1, max_new_tokens=2, generation_batch_size=2)
        generate(model, tokenizer, ["w1", "w2", "w3"], settings, counts.append)
        assert model.training is training
    assert counts == [2, 1, 2, 1]


def test_words_of_the_prompt_may_be_said_again():
    tokens = torch.tensor([[5, 6, 7, 5, 6]])
    scores = torch.zeros(1, 10)
    assert NoRepeatInCompletion(4, 0)(tokens, scores.clone())[0, 7] == 0
    assert NoRepeatInCompletion(3, 0)(tokens, scores.clone())[0, 7] == -torch.inf
    assert NoRepeatInCompletion(3, 3)(tokens, scores.clone())[0, 7] == 0


def test_evaluation_merges_references_and_training_does_not(options):
    from hiddenkey.lab.run.preparation import prepare

    splits = prepare(options).splits
    assert (len(splits.train), len(splits.evaluation)) == (24, 5)
    assert splits.evaluation[0].references == ("w0 w0 cat", "cat w0")
    assert splits.train[0].references == ()


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"prompt": "a", "completion": ""}], "line 1: column 'completion' must hold text"),
        ([{"prompt": "a", "completion": 3}], "line 1: column 'completion' must hold text, got 3"),
        ([{"prompt": 3, "completion": "a"}], "line 1: column 'prompt' must hold text, got 3"),
        ([{"prompt": "a"}], "line 1: must have a column 'completion', got 'prompt'"),
    ],
)
def test_bad_rows_are_refused_with_their_line(options, tmp_path, rows, fault):
    with pytest.raises(ConfigError) as caught:
        train(replace(options, train_file=write(tmp_path / "bad.jsonl", rows)))
    assert fault in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*is_decoder.*")
def test_an_encoder_is_refused_before_anything_is_written(options, tiny_model):
    with pytest.raises(
        ConfigError, match=r"must be a causal language model .* \(BertLMHeadModel\)"
    ):
        train(replace(options, model=str(tiny_model)))
    assert not Path(options.output).exists()


def test_a_tokenizer_without_an_end_is_refused(tiny_language_model, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tiny_language_model).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_language_model)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="must have a token that ends a text"):
        load_model(str(tmp_path), "generation", (), "float32")
