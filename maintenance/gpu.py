"""Checks and measures on a CUDA device, and writes what was found with the device's name.

    make gpu
    python maintenance/gpu.py [--minutes 8] [--only NAME ...] [--output runs/gpu]

Runs the tests in ``tests/cuda``, all of which are marked ``cuda``, then short forms of the
benchmarks: attention from 512 to 16,384 keys (MHA and GQA, encoder and causal, bfloat16), a step in
the shapes of RoBERTa-large, GPT2-medium and LLaMA2-7B, and the loss of a language model of 8,192
tokens, width 4,096 and vocabulary 128,256 beside TRL's and Liger's, where these are installed. Each
part is a command with a time limit of its own. One that fails or is stopped loses only what it had
not yet written. When ``--minutes`` are over, the parts that are left are named as not run.

Writes ``gpu.json`` (every number that the parts recorded) and ``gpu.md`` (the tables), and, of each
part, a log. The exit status is 0 if every part ended well. ``--device cpu`` tries the machinery
where there is no GPU: its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

from gpu_parts import Part, parts

ROOT: Final = Path(__file__).resolve().parents[1]
GRACE: Final = 5.0
"""Seconds that a part has to end after it was asked to."""

ENDED_WELL, FAILED, STOPPED, NOT_RUN = "ended well", "failed", "stopped at its limit", "not run"


@dataclass
class Outcome:
    """What became of a part.

    Attributes:
        part: the part.
        verdict: one of the four above.
        seconds: that it took.
        printed: its standard output.
        complaint: the end of what it wrote to standard error, where it did not end well.
        record: what it recorded, as far as it got.
    """

    part: Part
    verdict: str
    seconds: float = 0.0
    printed: str = ""
    complaint: str = ""
    record: Any = None


@dataclass(frozen=True)
class Device:
    """What was measured on."""

    name: str
    details: dict[str, Any] = field(default_factory=dict)


def run_all(
    todo: Sequence[Part],
    folder: Path,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Run one part after the other, none beyond ``seconds`` after the first began."""
    end = clock() + seconds
    for part in todo:
        left = end - clock()
        if left < GRACE:
            yield Outcome(part, NOT_RUN, complaint="no time was left")
            continue
        yield run(part, folder, min(part.limit, left))


def run(part: Part, folder: Path, limit: float) -> Outcome:
    """Run one part, and all processes that it starts, for ``limit`` seconds at most."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / f"{part.name}.{'xml' if part.is_test else 'json'}"
    record.unlink(missing_ok=True)
    command = [sys.executable, *(word.replace("{output}", str(record)) for word in part.command)]
    log, errors = folder / f"{part.name}.log", folder / f"{part.name}.err"
    began = time.monotonic()
    with log.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=out, stderr=err, start_new_session=True
        )
        try:
            verdict = ENDED_WELL if process.wait(limit) == 0 else FAILED
        except subprocess.TimeoutExpired:
            verdict = STOPPED
        finally:
            _end(process)
    printed = log.read_text(errors="replace")
    complaint = ""
    if verdict != ENDED_WELL:
        said = errors.read_text(errors="replace") or printed
        complaint = "\n".join(said.strip().splitlines()[-8:])
    return Outcome(
        part, verdict, time.monotonic() - began, printed, complaint, _read(record, part.is_test)
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and what it started; it leads a group of its own."""
    for which in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, which)
        except ProcessLookupError:
            break
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _read(record: Path, is_test: bool) -> Any:
    """Return what a part recorded; ``None`` if it came to nothing or broke off."""
    try:
        text = record.read_text(encoding="utf-8")
        return _tests(text) if is_test else json.loads(text)
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def _tests(text: str) -> dict[str, Any]:
    """Return how many tests passed, and which did not, from JUnit's XML."""
    found: dict[str, Any] = {"passed": 0, "failed": [], "skipped": []}
    for case in ElementTree.fromstring(text).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = [case.find(kind) for kind in ("failure", "error")]
        if any(each is not None for each in bad):
            found["failed"].append(name)
        elif (skipped := case.find("skipped")) is not None:
            found["skipped"].append(f"{name}: {skipped.get('message')}")
        else:
            found["passed"] += 1
    return found


def page(device: Device, outcomes: Sequence[Outcome]) -> str:
    """Return the Markdown page: a table of the parts, then what each printed."""
    lines = [f"# On {device.name}", "", f"{date.today():%d %B %Y}."]
    lines += ["", ", ".join(f"{name} {value}" for name, value in device.details.items()) + "."]
    lines += ["", "| part | result | seconds | command |", "|---|---|---|---|"]
    for each in outcomes:
        words = ["python", *(w for w in each.part.command if "{output}" not in w)]
        command = shlex.join([word for word in words if word != "--output"])
        result = _result(each)
        lines.append(f"| {each.part.title} | {result} | {each.seconds:.0f} | `{command}` |")
    for each in outcomes:
        lines += ["", f"## {each.part.title}", "", f"On {device.name}; {_result(each)}."]
        if each.printed and not each.part.is_test:
            lines += ["", each.printed.strip()]
        for kind in ("failed", "skipped"):
            named = (each.record or {}).get(kind, ()) if each.part.is_test else ()
            lines += ["", *(f"- {kind}: `{name}`" for name in named)] if named else []
        if each.complaint:
            lines += ["", "```", each.complaint, "```"]
    return "\n".join(lines) + "\n"


def _result(outcome: Outcome) -> str:
    if outcome.part.is_test and outcome.record:
        found = outcome.record
        counts = f"{found['passed']} passed, {len(found['failed'])} failed"
        return f"{outcome.verdict}: {counts}, {len(found['skipped'])} skipped"
    return outcome.verdict


def find_device(kind: str) -> Device:
    """Return the device, with the versions that matter.

    Raises:
        SystemExit: if there is none of this kind.
    """
    import torch

    details: dict[str, Any] = {"Python": platform.python_version(), "torch": torch.__version__}
    if kind == "cpu":
        return Device(f"a CPU ({platform.machine()}), where these numbers mean nothing", details)
    if not torch.cuda.is_available():
        why = "is built without CUDA" if torch.version.cuda is None else "finds no CUDA device"
        raise SystemExit(
            f"torch {torch.__version__} {why}; give its build for this driver: make gpu"
            " TORCH='torch --index-url ADDRESS', with the address that pytorch.org names for it"
        )
    about = torch.cuda.get_device_properties(0)
    details |= {
        "CUDA": torch.version.cuda,
        "memory": f"{about.total_memory / 2**30:.0f} GiB",
        "compute capability": f"{about.major}.{about.minor}",
    }
    return Device(torch.cuda.get_device_name(0), details)


def write(folder: Path, device: Device, outcomes: Sequence[Outcome]) -> None:
    """Write both files; after each part, since a machine may be taken away."""
    found = {"device": asdict(device), "parts": [asdict(outcome) for outcome in outcomes]}
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(device, outcomes), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts, by name; default: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="folder")
    given = parser.parse_args(arguments)
    todo = parts(given.device)
    names = [part.name for part in todo]
    if unknown := set(given.only or ()).difference(names):
        parser.error(f"--only: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    device = find_device(given.device)
    folder = given.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [part for part in todo if given.only is None or part.name in given.only]
    outcomes: list[Outcome] = []
    for outcome in run_all(wanted, folder, given.minutes * 60):
        outcomes.append(outcome)
        print(f"{outcome.part.name}: {_result(outcome)}, {outcome.seconds:.0f} s", flush=True)
        write(folder, device, outcomes)
    print(f"wrote {folder / 'gpu.md'} and {folder / 'gpu.json'}")
    return int(any(outcome.verdict != ENDED_WELL for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
