"""Files of predictions and references from anything at all."""

import csv
import io
import json

from hypothesis import given
from hypothesis import strategies as st

from fuzz.values import TEXTS, damaged, fuzzed, mutated, refusal
from hiddenkey.lab.predictions.columns import Picked
from hiddenkey.lab.predictions.files import read_material
from hiddenkey.lab.predictions.labels import read_labels
from hiddenkey.lab.tasks import TASKS

TRUE = ("entailment", "not_entailment", "entailment")
PREDICTED = ("not_entailment", "entailment", "not_entailment")
WRITTEN = ("a cat sat", "it rains", "no")
RIGHT = (["the cat sat", "a cat"], ["it rains a lot"], ["yes"])
NAMES = (
    "label",
    "prediction",
    "predict",
    "output",
    "reference",
    "references",
    "id",
    "index",
    "ref",
)
XML = """<benchmark><entries>
<entry category="Airport" eid="Id2" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>
</modifiedtripleset><lex comment="good" lid="Id1">second</lex></entry>
<entry category="Athlete" eid="Id1" size="1"><modifiedtripleset><mtriple>a | b | c</mtriple>
</modifiedtripleset><lex comment="good" lid="Id1">first</lex></entry>
</entries></benchmark>"""


def table(rows, delimiter=","):
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=delimiter).writerows(rows)
    return file.getvalue()


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


BOTH = [
    {"id": i, "prompt": f"p{i}", "predict": text, "label": right[0]}
    for i, (text, right) in enumerate(zip(WRITTEN, RIGHT, strict=True))
]
RTE_ROWS = [(i, f"one {i}", f"two {i}", name) for i, name in enumerate(TRUE)]
LABELLED = [{"predict": p, "label": t} for p, t in zip(PREDICTED, TRUE, strict=True)]
FILES = {
    "references": [
        ("a.txt", "\n\n".join("\n".join(texts) for texts in RIGHT) + "\n"),
        ("a.xml", XML),
        ("a.jsonl", lines(BOTH)),
        ("a.jsonl", lines({"id": i, "references": texts} for i, texts in enumerate(RIGHT))),
        ("a.csv", table([("mr", "references"), *zip("abc", map(repr, RIGHT), strict=True)])),
        ("a.tsv", table([("ref1", "ref2"), *((t[0], t[-1]) for t in RIGHT)], "\t")),
    ],
    "labels": [
        ("dev.tsv", table([("index", "sentence1", "sentence2", "label"), *RTE_ROWS], "\t")),
    ],
    "outputs": [
        ("b.txt", "".join(f"{text}\n" for text in WRITTEN)),
        ("b.jsonl", lines(BOTH)),
        ("b.csv", table([("id", "output"), *enumerate(WRITTEN)])),
        ("b.tsv", table([("", "prediction"), *enumerate(WRITTEN, 1)], "\t")),
        ("b.txt", "\n".join(PREDICTED)),
        ("b.jsonl", lines(LABELLED)),
        ("b.csv", table([("index", "label"), *enumerate(PREDICTED)])),
    ],
}  # fmt: skip


def files(kind):
    """A name and the content of a file, whole or damaged."""
    content = {
        name: [text.encode() for own, text in FILES[kind] if own == name] for name, _ in FILES[kind]
    }
    return st.sampled_from([*content]).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.sampled_from(content[name]).flatmap(lambda c: st.one_of(st.just(c), damaged(c))),
        )
    )


CHOICES = st.builds(
    Picked,
    st.one_of(st.none(), st.sampled_from(NAMES), TEXTS),
    st.lists(st.one_of(st.sampled_from(NAMES), TEXTS), max_size=2).map(tuple),
    st.one_of(st.none(), st.sampled_from(NAMES), TEXTS),
)
CHOSEN = st.one_of(st.just(Picked()), CHOICES)


def write(folder, one, other):
    """Write both files, each in a folder of its own."""
    paths = []
    for place, (name, content) in (("theirs", one), ("ours", other)):
        (folder / place).mkdir(exist_ok=True)
        (folder / place / name).write_bytes(content)
        paths.append(folder / place / name)
    return paths


def sound_material(*given):
    found = read_material(*given)
    assert len(found.outputs) == len(found.instances) > 0
    assert all(texts and all(text.strip() for text in texts) for texts in found.references)
    assert found.taken.prediction is None or found.taken.prediction not in ("reference", "label")


def sound_labels(*given):
    found = read_labels(*given)
    assert len(found.true) == len(found.predicted) > 0
    assert {*found.true, *found.predicted} <= {0, 1}


@fuzzed(200)
@given(st.sampled_from(["e2e", "webnlg"]), files("references"), files("outputs"))
def test_texts(tmp_path_factory, family, references, outputs):
    paths = write(tmp_path_factory.getbasetemp(), references, outputs)
    refusal(read_material, family, *paths)


@fuzzed(200)
@given(files("references"), files("outputs"), CHOICES)
def test_texts_of_chosen_columns(tmp_path_factory, references, outputs, chosen):
    paths = write(tmp_path_factory.getbasetemp(), references, outputs)
    refusal(read_material, "e2e", *paths, chosen)


@fuzzed(200)
@given(files("labels"), files("outputs"), CHOSEN)
def test_labels(tmp_path_factory, references, outputs, chosen):
    paths = write(tmp_path_factory.getbasetemp(), references, outputs)
    refusal(sound_labels, TASKS["rte"], *paths, chosen)


@fuzzed(200)
@given(mutated(BOTH, times=4), mutated(BOTH, times=4))
def test_objects(tmp_path_factory, theirs, ours):
    content = [
        "".join(json.dumps(row) + "\n" for row in (rows if isinstance(rows, list) else [rows]))
        for rows in (theirs, ours)
    ]
    paths = write(
        tmp_path_factory.getbasetemp(),
        *(("m.jsonl", text.encode("utf-8", "surrogatepass")) for text in content),
    )
    refusal(sound_material, "webnlg", *paths)


@fuzzed(200)
@given(st.permutations([*range(3)]), st.permutations([*BOTH[0]]))
def test_the_order_of_rows_and_columns_changes_nothing(tmp_path_factory, order, names):
    rows = [{name: BOTH[i][name] for name in names} for i in order]
    paths = write(
        tmp_path_factory.getbasetemp(),
        ("o.jsonl", lines(BOTH).encode()),
        ("o.csv", table([names, *([row[n] for n in names] for row in rows)]).encode()),
    )
    assert read_material("webnlg", *paths).outputs == WRITTEN
