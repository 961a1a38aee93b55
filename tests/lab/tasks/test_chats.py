"""Conversations in files: which turns are the prompt, which is the target, and what is refused."""

import csv
import json

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.tasks import Source, find_task
from hiddenkey.lab.tasks.classes import described


def load(path, **settings):
    source = Source(train_file=str(path), **settings)
    return find_task("completion", source).load(source)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def chat(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def shared(*turns):
    return {"id": 7, "conversations": [{"from": role, "value": text} for role, text in turns]}


TURNS = (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "2 + 2?"))
PLAIN = "System: Be brief.\nUser: Hi\nAssistant: Hello\nUser: 2 + 2?\nAssistant:"


def test_the_last_answer_of_chat_messages_is_the_target(tmp_path):
    path = write(tmp_path / "a.jsonl", [chat(*TURNS, ("assistant", " 4 "))])
    splits = load(path)
    (example,) = splits.train
    assert (example.texts, example.label, example.turns) == ((PLAIN,), " 4 ", TURNS)
    assert splits.notes == (f"{path}: read as chat messages, 1 conversations",)
    assert described(splits)[-1] == splits.notes[0]


def test_sharegpt_is_read_like_chat_messages(tmp_path):
    turns = (("system", ""), ("human", "Hi"), ("gpt", "Hello"), ("human", "Bye"))
    path = write(tmp_path / "a.jsonl", [shared(*turns), shared(*turns[1:3])])
    splits = load(path)
    assert [(e.turns, e.label) for e in splits.train] == [((("user", "Hi"),), "Hello")] * 2
    assert splits.notes == (
        f"{path}: read as ShareGPT conversations, 2 conversations; 1 have turns after the last"
        " answer, which are left out",
    )


def test_alpaca_has_one_turn(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "2, 2", "output": "4"},
        {"instruction": "Greet.", "input": "", "output": "Hello"},
        {"instruction": "Greet.", "input": None, "output": "Hi"},
    ]
    splits = load(write(tmp_path / "a.jsonl", rows))
    assert [e.texts[0] for e in splits.train] == [
        "User: Add.\n\n2, 2\nAssistant:",
        "User: Greet.\nAssistant:",
        "User: Greet.\nAssistant:",
    ]
    assert [e.label for e in splits.train] == ["4", "Hello", "Hi"]


def test_evaluation_takes_each_conversation_once_with_all_its_answers(tmp_path):
    one = write(tmp_path / "a.jsonl", [chat(*TURNS, ("assistant", word)) for word in "abc"])
    splits = load(one, eval_file=str(one))
    assert [(e.references, e.turns) for e in splits.evaluation] == [(("a", "b", "c"), TURNS)]
    plain = write(tmp_path / "b.jsonl", [{"prompt": PLAIN, "completion": word} for word in "abc"])
    assert load(plain).fingerprint() != load(one).fingerprint()
    assert len(splits.notes) == 2


def test_csv_and_parquet_hold_conversations_too(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [chat(*TURNS, ("assistant", "4"))]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["messages"], [json.dumps(rows[0]["messages"])]])
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert load(tmp_path / "a.csv").train == load(tmp_path / "a.parquet").train
    assert load(tmp_path / "a.csv").train[0].turns == TURNS


def test_prompt_and_completion_come_before_other_columns(tmp_path):
    row = {"prompt": "p", "completion": "c", **chat(*TURNS)}
    (example,) = load(write(tmp_path / "a.jsonl", [row])).train
    assert (example.texts, example.label, example.turns) == (("p",), "c", ())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (chat(("user", "a")), "must have a turn of the assistant, got user; delete the row"),
        (chat(), "must have a turn of the assistant, got none"),
        (chat(("assistant", "a")), "must have a turn before the answer, got assistant"),
        (chat(("user", "a"), ("tool", "b")), r"messages\[1\].role must be one of system, .*'tool'"),
        (chat(("user", "a"), ("assistant", None)), r"messages\[1\].content must be text, got None"),
        (chat(("user", " "), ("assistant", "b")), r"messages\[0\].content must be text, got ' '"),
        ({"messages": "hello"}, r"'messages' must be a list of {role, content}, got 'hello'"),
        ({"messages": [1]}, r"'messages' must be a list of {role, content}, got \[1\]"),
        ({"other": 1}, r"'messages' must be a list of {role, content}, got None"),
        ({"messages": [["x" * 9000]]}, r"got \[\['x{57} …"),
    ],
)
def test_a_broken_conversation_is_refused_with_its_row(tmp_path, row, message):
    path = write(tmp_path / "a.jsonl", [chat(*TURNS, ("assistant", "4")), row])
    with pytest.raises(ConfigError, match=f"line 2: .*{message}"):
        load(path)


def test_broken_conversations_are_counted_and_both_files_are_told(tmp_path):
    good = chat(*TURNS, ("assistant", "4"))
    train = write(tmp_path / "a.jsonl", [good, *[chat(("user", "a"))] * 20])
    other = write(
        tmp_path / "b.jsonl",
        [{"instruction": "a", "output": "b"}, {"instruction": "", "output": 1}],
    )
    with pytest.raises(ConfigError) as caught:
        load(train, eval_file=str(other))
    assert caught.value.faults[5:] == (
        f"{train}: 15 more rows break a rule",
        f"{other}, line 2: column 'instruction' must hold text, got ''; fill it in",
    )


def test_other_columns_are_asked_for_as_before(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(ConfigError, match="must have a column 'prompt', got 'question', 'answer'"):
        load(path)
    (example,) = load(path, text_columns=("question",), label_column="answer").train
    assert (example.texts, example.label) == (("q",), "a")
