"""The Java programs that the official scores need: METEOR 1.5 and the Penn Treebank tokenizer.

Both are jars inside the package pycocoevalcap, whose own calls of them have no time limit.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hiddenkey.errors import ConfigError
from hiddenkey.lab.assets import Asset, locate

COCO_CAPTION: Final = Asset(
    "pycocoevalcap", "1.2", "pycocoevalcap", "METEOR 1.5 and the Penn Treebank tokenizer"
)
_METEOR: Final = "meteor/meteor-1.5.jar"
_TOKENIZER: Final = "tokenizer/stanford-corenlp-3.4.1.jar"

# the same numbers and letters whatever the user's locale is
_LOCALE: Final = (
    "-Duser.language=en",
    "-Duser.country=US",
    "-Dfile.encoding=UTF-8",
    "-Dsun.stdout.encoding=UTF-8",
    "-Dstdout.encoding=UTF-8",
)


class MissingToolError(Exception):
    """A program that a metric needs is not installed; the text says which and what to do."""


@dataclass(frozen=True)
class Tools:
    """The programs that were found.

    Attributes:
        java: the java command.
        meteor: the jar of METEOR 1.5.
        tokenizer: the jar of the Penn Treebank tokenizer.
    """

    java: str
    meteor: Path
    tokenizer: Path

    def command(self, *words: str) -> list[str]:
        """A command line of the Java virtual machine."""
        # other garbage collectors take seconds longer to start
        return [self.java, *_LOCALE, "-Xmx2G", "-XX:+UseSerialGC", *words]


def find_tools() -> Tools:
    """Return Java and both jars.

    Raises:
        MissingToolError: naming everything that is missing.
    """
    missing = []
    java = _find_java()
    if java is None:
        missing.append("needs Java, no 'java' was found; install a Java runtime")
    folder = Path()
    try:
        folder = locate(COCO_CAPTION)
    except ConfigError as error:
        missing += error.faults
    else:
        missing += [
            f"needs {jar} of package {COCO_CAPTION.package!r}, no such file;"
            f" run: {COCO_CAPTION.install_command} --force-reinstall"
            for jar in (_METEOR, _TOKENIZER)
            if not (folder / jar).is_file()
        ]
    if java is None or missing:
        raise MissingToolError("; ".join(missing))
    return Tools(java, folder / _METEOR, folder / _TOKENIZER)


def _find_java() -> str | None:
    places = [os.environ.get("PATH", os.defpath)]
    if home := os.environ.get("JAVA_HOME"):
        places.append(str(Path(home, "bin")))
    return shutil.which("java", path=os.pathsep.join(filter(None, places)))
