"""What transformers' own tests are compared by, on a test of ours in their place."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import peers
from peers import Comparison, copy_missing, gather, run, table

TESTS = """
import unittest
from transformers import BertConfig, BertModel

CONFIG = BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=16, num_hidden_layers=1,
                    vocab_size=8)

class Tests(unittest.TestCase):
    def test_passes(self):
        for number in range(2):
            with self.subTest(number=number):
                if number:
                    self.skipTest("a part of it")

    def test_sees_an_attachment(self):
        model = BertModel(CONFIG).eval()
        self.assertFalse(any(m._forward_pre_hooks for m in model.modules()))

    def test_sees_a_name(self):
        for model in (BertModel(CONFIG).eval(), BertModel(CONFIG).train()):
            configs = [m.config for m in model.modules() if hasattr(m, "config")]
            self.assertEqual({config._attn_implementation for config in configs}, {"sdpa"})

    def test_fails(self):
        self.fail()

    @unittest.skip("for a reason")
    def test_is_skipped(self):
        pass
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "transformers-1.0"
    (folder / "tests" / "models" / "own").mkdir(parents=True)
    (folder / "tests" / "models" / "own" / "test_modeling_own.py").write_text(TESTS)
    return folder


def test_a_test_that_sees_the_attachment_is_lost_and_no_other(folder):
    found = peers.compare(folder, "own", 120)
    names = {test.rpartition("::")[2]: outcome for test, outcome in found.plain.items()}
    assert names == {
        "test_passes": "passed",
        "test_sees_an_attachment": "passed",
        "test_sees_a_name": "passed",
        "test_fails": "failed",
        "test_is_skipped": "skipped",
    }
    assert [test.rpartition("::")[2] for test in found.lost] == ["test_sees_an_attachment"]
    assert (found.models, found.refused) == (3, 0)
    assert "| own | 3 | 2 | 1 | 3 | 0 |" in table([found])


def test_tests_that_did_not_end_are_lost(folder):
    outcomes, counts = run(folder, ["tests"], 0.01)
    assert (outcomes, counts) == ({}, (0, 0))
    assert Comparison("own", {"a": "passed", "b": "failed"}, {}, 0, 0).lost == ["a"]


def test_a_checkout_gives_what_the_source_distribution_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "version", lambda name: "1.0")
    own, other = tmp_path / "transformers-1.0" / "tests", tmp_path / "checkout" / "tests"
    (other / "models").mkdir(parents=True)
    own.mkdir(parents=True)
    (own / "common.py").write_text("own")
    (other / "common.py").write_text("other")
    (other / "models" / "test.py").write_text("other")
    with pytest.raises(SystemExit, match="--checkout FOLDER"):
        gather(tmp_path, None)
    gather(tmp_path, tmp_path / "checkout")
    texts = {file.name: file.read_text() for file in own.rglob("*.py")}
    assert texts == {"common.py": "own", "test.py": "other"}
    copy_missing(Path(tmp_path / "nowhere"), own / "nowhere")
    assert not (own / "nowhere").exists()


@pytest.mark.parametrize(
    ("plain", "attached", "status", "line"),
    [
        ({"a": "passed", "b": "failed"}, {"a": "passed", "b": "failed"}, 0, "none"),
        ({"a": "passed"}, {"a": "failed"}, 1, "  a"),
        ({}, {}, 1, "No test ran of own"),
    ],
)
def test_the_exit_status_says_whether_all_is_well(
    plain, attached, status, line, monkeypatch, tmp_path, capsys
):
    (tmp_path / "runs" / "peers").mkdir(parents=True)
    monkeypatch.setattr(peers, "THIS", SimpleNamespace(root=tmp_path))
    monkeypatch.setattr(peers, "gather", lambda runs, checkout: runs)
    monkeypatch.setattr(peers, "install", lambda packages: None)
    found = Comparison("own", plain, attached, 1, 0)
    monkeypatch.setattr(peers, "compare", lambda *arguments: found)
    assert peers.main(["--models", "own"]) == status
    assert line in capsys.readouterr().out
    assert (tmp_path / "runs" / "peers" / "peers.json").exists()


def test_the_command_says_what_it_takes():
    script = Path(peers.__file__)
    shown = subprocess.run([sys.executable, script, "--help"], capture_output=True, check=True)
    assert b"--checkout" in shown.stdout
