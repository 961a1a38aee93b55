"""The groups in which a command's help shows its settings."""

from __future__ import annotations

import dataclasses
from argparse import Action
from typing import Any

from jsonargparse import ArgumentParser


def group(parser: ArgumentParser, kind: type[Any]) -> None:
    """Show the flags of a dataclass in its groups, where it has any.

    Args:
        parser: has the flags already.
        kind: whose class attribute ``sections`` holds pairs of the first setting of a group and
            the group's title; settings after it belong to the group, until another one begins.
    """
    titles = _titles(kind)
    actions = {action.dest: action for action in parser._actions if action.dest in titles}
    for each in parser._action_groups:
        each._group_actions[:] = [a for a in each._group_actions if a.dest not in titles]
    for title in dict.fromkeys(titles.values()):
        own: list[Action] = [actions[name] for name, found in titles.items() if found == title]
        parser.add_argument_group(title)._group_actions.extend(own)


def _titles(kind: type[Any]) -> dict[str, str]:
    """The title of each setting's group, by the setting's name."""
    starts, title = dict(getattr(kind, "sections", ())), ""
    found = {}
    for field in dataclasses.fields(kind):
        title = starts.get(field.name, title)
        found[field.name] = title
    return found if starts else {}
