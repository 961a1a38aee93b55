"""The directive ``command-reference``: every command and flag, as the parser has them."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_id

from hiddenkey.cli.arguments import _build_parser
from hiddenkey.cli.commands import COMMANDS, Command, _named
from hiddenkey.cli.main import main

HIDDEN = ("--help", "--print-config", "--print_config")


def flags_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, list[argparse.Action]]]:
    """Yield the title of each group of the help, and its flags."""
    for group in parser._action_groups:
        shown = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not any(name.startswith(HIDDEN) for name in action.option_strings)
        ]
        if shown:
            yield group.title or "options", shown


def name_of(action: argparse.Action) -> str:
    """Return a flag as one types it."""
    flags = [name.replace("_", "-") for name in action.option_strings if name.startswith("--")]
    return flags[0] if flags else action.dest


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """Return a flag's help with its type and default, on one line."""
    return " ".join(parser._get_formatter()._expand_help(action).split())


class CommandReference(SphinxDirective):
    """A section for each command: what it is for, and a list of its flags."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        return [self._section(name, command) for name, command in COMMANDS.items()]

    def _section(self, name: str, command: Command) -> nodes.section:
        identity = make_id(self.env, self.state.document, "", f"command {name}")
        section = nodes.section(ids=[identity], names=[name])
        section += nodes.title("", "", nodes.literal("", f"hiddenkey {name}"))
        section += nodes.paragraph("", command.summary[0].upper() + command.summary[1:] + ".")
        if command.options is None:
            section += nodes.literal_block("", printed_help(name), language="text")
            return section
        parser = _build_parser(_named(command.options), name, command.positional)
        for title, flags in flags_of(parser):
            section += nodes.rubric("", title)
            section += self._list(parser, flags)
        return section

    def _list(
        self, parser: argparse.ArgumentParser, flags: list[argparse.Action]
    ) -> nodes.definition_list:
        found = nodes.definition_list()
        for flag in flags:
            item = nodes.definition_list_item()
            item += nodes.term("", "", nodes.literal("", name_of(flag)))
            text = nodes.paragraph("", help_of(parser, flag))
            item += nodes.definition("", text)
            found += item
        return found


def printed_help(name: str) -> str:
    """Return what ``hiddenkey NAME --help`` prints."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        main([name, "--help"])
    return shown.getvalue()


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx know the directive."""
    import_module("hiddenkey")
    app.add_directive("command-reference", CommandReference)
    return {"parallel_read_safe": True}
