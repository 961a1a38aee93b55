"""Java programs for tests: the real ones where they are installed, and stand-ins that misbehave."""

import os
import sys
from pathlib import Path

import pytest

from hiddenkey.lab.scores.java import MissingToolError, Tools, find_tools


def require_tools():
    """The real programs; skips where they are missing, fails if HIDDENKEY_REQUIRE_TOOLS is set."""
    try:
        return find_tools()
    except MissingToolError as reason:
        message = f"METEOR and the Penn Treebank tokenizer {reason}"
        if os.environ.get("HIDDENKEY_REQUIRE_TOOLS"):
            pytest.fail(message)
        pytest.skip(message)


def fake_tools(folder: Path, code: str) -> Tools:
    """Tools whose java is a Python program."""
    java = folder / "java"
    java.write_text(f"#!{sys.executable}\nimport os, sys, time\n{code}\n")
    java.chmod(0o755)
    return Tools(str(java), folder / "meteor.jar", folder / "tokenizer.jar")
