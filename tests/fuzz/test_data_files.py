"""Data files of every format with anything in them."""

import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.values import TEXTS, damaged, fuzzed, plain_values, refusal
from hiddenkey.lab.plans.guess import guess
from hiddenkey.lab.tasks import Source, find_task
from hiddenkey.lab.tasks.classes import described
from hiddenkey.lab.tasks.webnlg import read_entries

GOOD = [{"text": f"words {index}", "label": ("pos", "neg")[index % 2]} for index in range(6)]
SCORES = [{"text": f"words {index}", "label": index / 2} for index in range(6)]
TABLES = {
    ".csv": b'text,label,more\n"a, ""b""",pos,1\nc,neg,2\n"d\ne",pos,3\n',
    ".tsv": b'text\tlabel\nsay "a\tpos\nb\tneg\nc\tpos\n',
    ".jsonl": "\n".join(map(json.dumps, GOOD)).encode(),
}
LABELS = st.one_of(
    plain_values(),
    TEXTS,
    st.sampled_from(["pos", "Pos", "neg", 1, 1.0, True, "1", None, "null", ["pos"], "pos|neg"]),
)
XML = b"""<?xml version="1.0" encoding="UTF-8"?>
<benchmark><entries>
<entry category="Food" eid="Id1" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>
</modifiedtripleset><lex comment="good" lid="Id1">A b c.</lex></entry>
<entry category="Food" eid="Id2" size="1"><modifiedtripleset><mtriple>d | e | f</mtriple>
</modifiedtripleset><lex comment="good" lid="Id1">D e f.</lex></entry>
</entries></benchmark>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def taken_is_sound(path, task="file", **settings):
    """What was read has classes that differ, a finite label for each row, and texts to show."""
    source = Source(train_file=path, eval_file=path, text_columns=("text",), **settings)
    load = find_task(task, source).load
    if refusal(load, source) is not None:
        return
    splits = load(source)
    "".join([*described(splits), splits.fingerprint()]).encode()
    for example in (*splits.train, *splits.evaluation):
        assert all(text.strip() for text in example.texts)
        "".join(example.texts).encode()
        assert isinstance(example.label, str) or math.isfinite(example.label)
    if task == "file" and not settings:
        seen = [name.strip().casefold() for name in splits.label_names]
        assert len(set(seen)) == len(seen) >= 2
        assert not {"", "null", "nan", "none"} & set(seen)


def read_everywhere(path):
    taken_is_sound(path)
    taken_is_sound(path, regression=True)
    taken_is_sound(path, label_names=("pos", "neg"))
    taken_is_sound(path, task="completion", label_column="label")


@fuzzed(300)
@given(data=st.data(), suffix=st.sampled_from([*TABLES]))
def test_a_damaged_table(folder, data, suffix):
    path = folder / f"damaged{suffix}"
    path.write_bytes(data.draw(damaged(TABLES[suffix])))
    read_everywhere(path)


TURNS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("role", "from"), st.sampled_from(["user", "human", "gpt", "assistant", 1])
        ),
        **dict.fromkeys(("content", "value"), st.one_of(TEXTS, plain_values())),
    },
)
ROWS = st.dictionaries(
    st.sampled_from(
        ["messages", "conversations", "instruction", "output", "input", "text", "label", "score"]
    ),
    st.one_of(st.lists(TURNS, max_size=4), TEXTS, plain_values()),
)


@fuzzed(100)
@given(st.lists(ROWS, min_size=1, max_size=4))
def test_conversations_of_anything(folder, rows):
    path = folder / "turns.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    source = Source(train_file=str(path))
    load = find_task("completion", source).load
    if refusal(load, source) is None:
        for example in load(source).train:
            "".join((*example.texts, example.label)).encode()
            assert not example.turns or example.texts[0].endswith("\nAssistant:")
    if refusal(guess, path, {}) is None:
        found = guess(path, {})
        assert found.task == "completion" or found.settings["text_columns"]


@fuzzed(300)
@given(st.lists(st.fixed_dictionaries({"text": TEXTS, "label": LABELS}), max_size=6))
def test_rows_of_anything(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, [*GOOD[:2], *rows])))
    read_everywhere(path)


@fuzzed()
@given(data=st.data(), rows=st.sampled_from([GOOD, SCORES]))
def test_a_damaged_parquet_file(folder, data, rows):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    path = folder / "damaged.parquet"
    path.write_bytes(data.draw(damaged(file.getvalue())))
    read_everywhere(path)


@fuzzed(200)
@given(damaged(XML))
def test_a_damaged_xml_file(folder, content):
    path = folder / "damaged.xml"
    path.write_bytes(content)
    if refusal(read_entries, path) is None:
        entries = read_entries(path)
        assert entries
        assert all(entry.triples and all(entry.texts) for entry in entries)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".xml"])
def test_a_deep_or_long_file(folder, suffix):
    for content in (b"[" * 200_000, b'{"a":' * 100_000, b"<a>" * 100_000, b'"' + b"9" * 10**6):
        path = folder / f"deep{suffix}"
        path.write_bytes(content)
        assert refusal(read_entries, path) is not None
        source = Source(train_file=path, eval_file=path, text_columns=("text",))
        assert refusal(find_task("file", source).load, source) is not None
