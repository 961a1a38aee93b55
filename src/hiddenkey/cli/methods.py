"""``hiddenkey methods``: the dropout methods on the paper's three axes."""

from __future__ import annotations

import re
from typing import Any, Final

from rich.table import Table

import hiddenkey
from hiddenkey.cli.options import MethodsOptions
from hiddenkey.cli.terminal import plain_table, print_json, standard_console
from hiddenkey.framework.inference import RULES

_ARXIV: Final = re.compile(r"arXiv [\d.]+")
_WIDE: Final = 110


def run(options: MethodsOptions) -> int:
    """Print the methods and return the exit status."""
    if options.json:
        print_json(records())
    else:
        console = standard_console()
        console.print(_table(wide=console.width >= _WIDE))
        console.print(_used())
    return 0


def records() -> list[dict[str, Any]]:
    """The methods as plain JSON types, in the library's order."""
    fields = ("name", "summary", "where", "pattern", "compensation", "paper")
    return [
        {**{name: getattr(each, name) for name in fields}, "config": each.config.to_dict()}
        for each in hiddenkey.methods().values()
    ]


def _table(*, wide: bool) -> Table:
    columns = ["name", "where", "pattern", "compensation"]
    table = plain_table("dropout methods at rate 0.1")
    table.add_column("method", no_wrap=True)
    table.add_column("position", min_width=16)
    table.add_column("pattern")
    table.add_column("compensation", min_width=12)
    if wide:
        columns.append("summary")
        table.add_column("what drops")
    table.add_column("paper")
    for record in records():
        table.add_row(*(record[name] for name in columns), _short(record["paper"]))
    return table


def _used() -> Table:
    """The fourth axis, which goes with each method."""
    table = plain_table("what is used at inference")
    for title in ("inference", "what", "paper"):
        table.add_column(title)
    for name, rule in RULES.items():
        table.add_row(name, rule.summary, _short(rule.paper))
    return table


def _short(paper: str) -> str:
    """The arXiv id of a paper, or its whole reference where it has none."""
    found = _ARXIV.search(paper)
    return found[0] if found else paper
