import dataclasses
import json
import re
from pathlib import Path

import pytest

from model_tables.page import SECTION, render
from model_tables.record import Record, Row

PASS = Row(
    "mixtral",
    "causal",
    "pass",
    model="MixtralForCausalLM",
    layers=4,
    attention={"fused": 3, "intercepted": 1},
    attention_layers=3,
    hidden_layers=4,
    feed_forward=("model.layers.*.mlp",),
    norm=("residual add",),
    gaps=("attention_logits: no softmax attention, only Mixer",),
)
ROWS = [
    PASS,
    Row("xlnet", "causal", "fails", "noise: a | b\nmore"),
    Row("vit", "image", "fails", "seeds"),
    Row("absent", "causal", "cannot be built", "model: ImportError: no such package"),
]


@pytest.fixture
def record():
    return Record("python x", "2026-01-31", {"hiddenkey": "1.2", "torch": "2.0"}, tuple(ROWS))


def test_share_is_of_text_types_that_can_be_built(record):
    assert record.text_share() == (1, 2)
    assert "**1 of 2 text types that can be built pass (50.0%).**" in render(record)


def test_header_and_counts(record):
    text = render(record)
    assert "by `python x` on 2026-01-31 with hiddenkey 1.2, torch 2.0." in text
    assert re.search(r"\| pass \| 1 \|", text)
    assert re.search(r"\| fails \| 2 \|", text)
    assert "crashed" not in text


def test_one_line_for_each_type(record):
    lines = [line for line in render(record).splitlines() if line.startswith("| `")]
    assert len(lines) == len(ROWS)
    assert lines[0] == (
        "| `mixtral` | causal | MixtralForCausalLM | fused + intercepted, 3 of 4 |"
        " `model.layers.*.mlp`, 4 of 4; residual add | pass |"
        " gap: attention_logits: no softmax attention, only Mixer |"
    )
    assert lines[1] == "| `xlnet` | causal |  |  |  | fails | noise: a \\| b more |"


def test_a_record_is_plain_and_ordered():
    record = Record.of(reversed(ROWS), "command")
    assert [row.type for row in record.rows] == ["absent", "mixtral", "vit", "xlnet"]
    plain = json.loads(json.dumps(record.to_dict()))
    assert plain["versions"].keys() >= {"hiddenkey", "python", "torch", "transformers", "peft"}
    assert plain["rows"][1] == json.loads(json.dumps(dataclasses.asdict(PASS)))
    assert record.counts() == {"fails": 2, "cannot be built": 1, "pass": 1}


def test_committed_document_says_what_the_committed_record_says():
    docs = Path(__file__).parents[3] / "docs"
    plain = json.loads((docs / "models.json").read_text(encoding="utf-8"))
    rows = [
        Row(**{key: tuple(v) if isinstance(v, list) else v for key, v in row.items()})
        for row in plain["rows"]
    ]
    record = Record(plain["command"], plain["date"], plain["versions"], tuple(rows))
    text = (docs / "MODELS.md").read_text(encoding="utf-8")
    assert f"<!-- {SECTION} -->\n{render(record)}\n<!-- /{SECTION} -->" in text
    assert len(rows) > 250
