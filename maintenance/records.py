"""Keep the runs behind a page of results in one file, and lay them out again as a folder.

    python maintenance/records.py pack runs/mpnet docs/results/records/claims_mpnet.jsonl.gz
    python maintenance/records.py unpack docs/results/records/claims_mpnet.jsonl.gz runs/mpnet

Each line is the record of a run. A command that finds the records of its runs in its folder trains
only what is missing: with all of them it makes the same page again, and evidence that takes longer
than a machine is to be had can go on elsewhere. Step times are no records, and are measured again.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

from hiddenkey.errors import ConfigError
from hiddenkey.files import write_whole
from hiddenkey.lab.evidence.record import NOT_A_RECORD, Record, read_records
from hiddenkey.lab.plans.identity import PATHS


def pack(folder: Path, file: Path) -> int:
    """Write the records of a folder into a file, ordered by identity; return how many.

    Records that the file has and the folder lacks stay in it, and finished ones that failed in the
    folder. Equal records make equal files. What belongs to a machine is left out: the name of the
    operating system's kernel, and where the data are, which is no part of a run's identity.

    Raises:
        ConfigError: if the folder holds no records, or broken ones.
    """
    known = {record.id: record for record in read_packed(file)} if file.exists() else {}
    for record in read_records(folder):
        if record.status == "finished" or record.id not in known:
            known[record.id] = record
    lines = [json.dumps(_published(known[name]), allow_nan=False) for name in sorted(known)]
    text = "".join(f"{line}\n" for line in lines)
    write_whole(file, gzip.compress(text.encode(), mtime=0))
    return len(lines)


def _published(record: Record) -> dict[str, Any]:
    values = record.to_dict()
    environment = {k: v for k, v in values["environment"].items() if k != "platform"}
    options = {k: _anywhere(k, v) if k in PATHS else v for k, v in values["options"].items()}
    return {**values, "environment": environment, "options": options}


def _anywhere(name: str, place: str | None) -> str | None:
    """The word for a folder of data, or a file's name without its folder."""
    if place is None:
        return None
    return "DATA_FOLDER" if name == "data" else Path(place).name


def unpack(file: Path, folder: Path) -> int:
    """Write each record of a file as ``records/ID.json`` in a folder; return how many."""
    found = read_packed(file)
    for record in found:
        record.save(folder)
    return len(found)


def read_packed(file: Path) -> list[Record]:
    """Return the records of a file, ordered by identity."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [Record.from_dict(json.loads(line)) for line in lines]


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
