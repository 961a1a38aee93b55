"""Checks that a version is ready, tries what would be published, and tags it.

    python maintenance/release.py [--no-tag] [--newest]

Ready means: nothing uncommitted, a section of CHANGELOG.md for the version of pyproject.toml with a
date, the same version in CITATION.cff, and no such tag yet. Then the wheel and the source
distribution are built and used in empty environments (check_distributions.py). Pushing the tag and
uploading are left to a person.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from project import THIS


def git(root: Path, *words: str) -> str:
    """Return what a git command prints."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def faults(root: Path, version: str) -> Iterator[str]:
    """Yield what is missing for a release of a version.

    Args:
        root: the checkout.
        version: without the tag's v.
    """
    if git(root, "status", "--porcelain"):
        yield "everything must be committed; see 'git status'"
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE):
        yield f"CHANGELOG.md must have a section '## [{version}] - DATE'"
    cited = (root / "CITATION.cff").read_text(encoding="utf-8")
    if not re.search(rf"^version: {re.escape(version)}$", cited, re.MULTILINE):
        yield f"CITATION.cff must say 'version: {version}'"
    if git(root, "tag", "--list", f"v{version}"):
        yield f"the tag v{version} exists; raise the version in pyproject.toml"


def main(words: list[str] | None = None) -> int:
    """Check, try and tag; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-tag", action="store_true", help="stop before the tag")
    parser.add_argument("--newest", action="store_true", help="try it beside the newest releases")
    given = parser.parse_args(words)
    version = str(THIS.table["version"])
    if found := list(faults(THIS.root, version)):
        print("\n".join(found), file=sys.stderr)
        return 1
    check = [sys.executable, str(THIS.root / "maintenance" / "check_distributions.py")]
    if status := subprocess.run([*check, *(["--newest"] if given.newest else [])]).returncode:
        return status
    if given.no_tag:
        print(f"{version} is ready")
        return 0
    git(THIS.root, "tag", "--annotate", f"v{version}", "--message", f"hiddenkey {version}")
    print(f"tagged v{version}; to publish: git push --tags, then upload what was built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
