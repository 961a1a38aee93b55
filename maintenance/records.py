"""Keep the runs behind a page of results in one file, and lay them out again as a folder.

    python maintenance/records.py pack runs/mpnet docs/results/records/claims_mpnet.jsonl.gz
    python maintenance/records.py unpack docs/results/records/claims_mpnet.jsonl.gz runs/mpnet

Each line is a run: the record of a comparison or of claims, or the run of a study. A command that
finds its runs in its folder trains only what is missing: with all of them it makes the same page
again, and evidence that takes longer than a machine is to be had can go on elsewhere. Step times
are no records, and are measured again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from hiddenkey.errors import ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.evidence.record import FOLDER, NOT_A_RECORD, Record, read_records
from hiddenkey.lab.plans.identity import PATHS

_STUDY_RUNS: Final = "runs"


def pack(folder: Path, file: Path) -> int:
    """Write the runs of a folder into a file, ordered by identity; return how many.

    Runs that the file has and the folder lacks stay in it, and finished ones that failed in the
    folder. Equal runs make equal files. What belongs to a machine is left out: the name of the
    operating system's kernel, and where the data are, which is no part of a run's identity.

    Args:
        folder: of a comparison, of claims, or of a study whose runs are in ``runs``.
        file: JSON lines, compressed.

    Raises:
        ConfigError: if the folder holds no runs, or broken ones.
    """
    known = {line["id"]: line for line in read_packed(file)} if file.exists() else {}
    paths = [] if (folder / FOLDER).is_dir() else sorted((folder / _STUDY_RUNS).glob("*.json"))
    found = map(_study_run, paths) if paths else map(_record, read_records(folder))
    for line in found:
        if line.get("status", "finished") == "finished" or line["id"] not in known:
            known[line["id"]] = line
    lines = [json.dumps(known[name], allow_nan=False) for name in sorted(known)]
    text = "".join(f"{line}\n" for line in lines)
    write_whole(file, gzip.compress(text.encode(), mtime=0))
    return len(lines)


def _record(record: Record) -> dict[str, Any]:
    values = _without_platform(record.to_dict())
    options = {k: _anywhere(k, v) if k in PATHS else v for k, v in values["options"].items()}
    return {**values, "options": options}


def _study_run(path: Path) -> dict[str, Any]:
    """A run of a study; its settings name data by their hash, not by their place."""
    try:
        return {"id": path.stem, **_without_platform(json.loads(path.read_text("utf-8")))}
    except NOT_A_RECORD as error:
        raise ConfigError(f"{path}: not a whole run ({error}); delete it") from None


def _without_platform(values: Mapping[str, Any]) -> dict[str, Any]:
    environment = {k: v for k, v in values["environment"].items() if k != "platform"}
    return {**values, "environment": environment}


def _anywhere(name: str, place: str | None) -> str | None:
    """The word for a folder of data, or a file's name without its folder."""
    if place is None:
        return None
    return "DATA_FOLDER" if name == "data" else Path(place).name


def unpack(file: Path, folder: Path) -> int:
    """Lay each run of a file out where its command finds it in a folder; return how many."""
    found = read_packed(file)
    for line in found:
        if "settings" in line:
            run = {name: value for name, value in line.items() if name != "id"}
            path = folder / _STUDY_RUNS / f"{line['id']}.json"
            write_whole(path, json.dumps(run, indent=1, ensure_ascii=False) + "\n")
        else:
            Record.from_dict(line).save(folder)
    return len(found)


def read_packed(file: Path) -> list[dict[str, Any]]:
    """Return the runs of a file, ordered by identity: records, or a study's runs with an ``id``."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["pack", "unpack"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    try:
        count = {"pack": pack, "unpack": unpack}[given.action](given.source, given.target)
    except (ConfigError, *NOT_A_RECORD, EOFError) as error:
        sys.exit(f"{given.source} could not be read or {given.target} be written: {error}")
    print(f"{count} runs in {given.target}")
