"""The architectures' part of ``docs/MODELS.md``, from a record."""

from __future__ import annotations

from typing import Final

from model_tables.document import table, verdicts, written_by
from model_tables.record import Record, Row

SECTION: Final = "architectures"
_MEANING: Final = {
    "pass": "every check held",
    "refused": "the library does not attach, and says why",
    "partial": "it attached, but some attention or layer was neither served nor named",
    "fails": "it attached, and a check did not hold",
    "crashed": "the process died",
    "timed out": "there was no result in time",
    "cannot be built": "no tiny model of it can be trained here at all",
}


def render(record: Record) -> str:
    """Return the section: what was run, counts, and one line for each type."""
    passed, built = record.text_share()
    share = f"{passed} of {built} text types that can be built pass" + (
        f" ({passed / built:.1%})" if built else ""
    )
    parts = [
        "## Architectures",
        written_by(record.command, record.date, record.versions),
        _PREFACE,
        f"**{share}.**",
        verdicts(record.counts(), _MEANING, "types"),
        _COLUMNS,
        table(
            ("type", "task", "class", "attention", "feed-forward", "verdict", "reason"),
            (_line(row) for row in record.rows),
        ),
    ]
    return "\n\n".join(parts)


_PREFACE: Final = """\
A tiny random model of each type of the installed transformers is built from its shrunk
configuration, on the task that it is mainly used for, with LoRA on all linear layers that take
part; a model without any is trained as a whole. HiddenKey (DropKey on attention logits, HiddenCut
on hidden states, bidirectional KL) is attached, and `hiddenkey.testing.examine_model` checks it
with padding left and right: sites in every layer, held against the attention that PyTorch's
dispatcher saw; noise at each site alone; evaluation bit-equal; gradients finite and at every
parameter; nothing left after detaching."""

_COLUMNS: Final = """\
*attention*: the path and the layers that it serves, out of the layers that have a site or a named
gap. *feed-forward*: the modules behind which hidden states drop (`*` for numbers), the layers, and
what follows in the block: `before NORM` where a norm takes the dropped output itself, as in
post-norm blocks; `residual add, then NORM` where it takes the sum; `residual add` where none
follows."""


def _line(row: Row) -> list[str]:
    reasons = [row.reason, *(f"gap: {gap}" for gap in row.gaps)]
    return [
        f"`{row.type}`",
        row.task,
        row.model,
        _attention(row),
        _feed_forward(row),
        row.verdict,
        "; ".join(reason for reason in reasons if reason),
    ]


def _attention(row: Row) -> str:
    if not row.layers:
        return ""
    paths = " + ".join(row.attention) or "none"
    return f"{paths}, {row.attention_layers} of {row.layers}"


def _feed_forward(row: Row) -> str:
    if not row.layers:
        return ""
    modules = ", ".join(f"`{name}`" for name in row.feed_forward) or "none"
    sides = f"; {', '.join(row.norm)}" if row.norm else ""
    return f"{modules}, {row.hidden_layers} of {row.layers}{sides}"
