"""How this package was installed, and so which command adds an extra to it.

The package is not on the index of Python packages by itself. Whoever has it has a folder, a file or
an address, which pip records beside what it installs (PEP 610).
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME: Final = "hiddenkey"
_PACKAGE: Final = Path(__file__).parent
_EXTRAS: Final = {
    "bitsandbytes": "quantize",
    "datasets": "hub",
    "gguf": "gguf",
    "lightning": "lightning",
    "psycopg": "postgres",
    "pytorch_optimizer": "sam",
    "trl": "trl",
}


def extra_with(module: str) -> str:
    """Return the extra that brings a module which is not part of the library's own dependencies."""
    return _EXTRAS.get(module.partition(".")[0], "lab")


def install_command(extra: str) -> str:
    """Return the command that installs an extra from where this package came from.

    Args:
        extra: such as ``lab`` or ``hub``.
    """
    record = _record()
    installed = _folder(record)
    folder = _source_tree() or installed
    if folder is not None:
        editable = folder == installed and record["dir_info"].get("editable", False)
        return _from_folder(folder, extra, editable=editable)
    address = _address(record)
    wanted = f"{_NAME}[{extra}]" + (f" @ {address}" if address else "")
    return f"pip install {shlex.quote(wanted)}"


def _from_folder(folder: Path, extra: str, *, editable: bool) -> str:
    constraints = folder / "constraints.txt"
    words = ["pip", "install"]
    words += ["-c", str(constraints)] if constraints.is_file() else []
    words += ["--editable"] if editable else []
    return shlex.join([*words, f"{folder}[{extra}]"])


def _record() -> Mapping[str, Any]:
    """What pip recorded of the installation; nothing if it took the package from an index."""
    try:
        text = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:
        return {}
    record: Mapping[str, Any] = json.loads(text) if text else {}
    return record


def _source_tree() -> Path | None:
    """The folder with the ``pyproject.toml`` of the code that runs."""
    folder = _PACKAGE.resolve().parent.parent
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return folder if project.get("project", {}).get("name") == _NAME else None


def _folder(record: Mapping[str, Any]) -> Path | None:
    """The folder that was installed, if it is still there."""
    if "dir_info" not in record:
        return None
    folder = Path(url2pathname(urlsplit(record["url"]).path))
    return folder if (folder / "pyproject.toml").is_file() else None


def _address(record: Mapping[str, Any]) -> str | None:
    """What pip takes after ``hiddenkey @`` to install the same file or commit again."""
    if "archive_info" in record:
        return str(record["url"])
    if "vcs_info" not in record:
        return None
    source = record["vcs_info"]
    inside = record.get("subdirectory")
    part = f"#subdirectory={inside}" if inside else ""
    return f"{source['vcs']}+{record['url']}@{source['commit_id']}{part}"
