"""Entry point: finds the subcommand and turns errors into messages.

Nothing heavy is imported here, so that ``hiddenkey --help`` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from hiddenkey import __version__
from hiddenkey.cli.commands import COMMANDS, listing
from hiddenkey.errors import (
    AttachError,
    ConfigError,
    ConsistencyError,
    DivergedError,
    not_one_of,
)
from hiddenkey.lab.queue.interrupts import came_of_interrupt, interrupts_arrive

_FAILED = 1
_USER_ERROR = 2
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; return 0, 1 if something failed, 2 for a user's error, 130 if stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(not_one_of("command", given[0], COMMANDS, "; see hiddenkey --help"))
    command: str = parser.parse_args(given[:1]).command
    # transformers' bars for reading files; torch imports tqdm, which looks at this only then
    if command != "run":  # whose command has bars of its own
        os.environ.setdefault("TQDM_DISABLE", "1")
    try:
        with interrupts_arrive():
            return _run(command, given[1:])
    except KeyboardInterrupt:
        print(f"hiddenkey {command}: stopped", file=sys.stderr)
        return _INTERRUPTED


def _run(command: str, arguments: list[str]) -> int:
    try:
        _refuse_several_processes(command)
        return COMMANDS[command].run(command, arguments)
    except ConfigError as error:
        _report(command, error.faults)
    except (AttachError, ConsistencyError) as error:
        _report(command, (str(error),))
    except DivergedError as error:
        _report(command, (str(error),))
        return _FAILED
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("hiddenkey"):
            _report(command, (_unforeseen(error),))
            return _FAILED
        from hiddenkey.installation import extra_with, install_command

        run = install_command(extra_with(error.name or ""))
        _report(command, (f"package {error.name!r} is missing; run: {run}",))
    except OSError as error:
        _report(command, (_refused_by_system(error),))
    except Exception as error:
        if came_of_interrupt(error):
            raise KeyboardInterrupt from error
        _report(command, (_unforeseen(error),))
        return _FAILED
    return _USER_ERROR


def _refused_by_system(error: OSError) -> str:
    """Say what the operating system refused: a full disk, a lost folder, no right to it."""
    where = f"{str(error.filename)[:200]}: " if error.filename else ""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{where}{reason}; fix that or choose another place, and run the same command again"


def _unforeseen(error: Exception) -> str:
    """Write down the details of an error that nobody thought of, and say where."""
    import tempfile
    import traceback

    handle, path = tempfile.mkstemp(prefix="hiddenkey-", suffix=".log")
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(traceback.format_exception(error))
    said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    return f"an error that was not foreseen ({said}); please report it with the details in {path}"


def _refuse_several_processes(command: str) -> None:
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1" and command != "train":
        raise ConfigError(
            f"hiddenkey {command} runs as one process, got WORLD_SIZE={processes}; start it without"
            " torchrun or accelerate launch (hiddenkey train runs as several, and hiddenkey compare"
            " starts workers by itself)"
        )


def _report(command: str, faults: Sequence[str]) -> None:
    if len(faults) == 1:
        print(f"hiddenkey {command}: error: {faults[0]}", file=sys.stderr)
        return
    print(f"hiddenkey {command}: {len(faults)} errors:", file=sys.stderr)
    for fault in faults:
        print(f"  - {fault}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hiddenkey",
        description="Structured dropout for fine-tuning transformers (arXiv 2403.00812).",
        epilog=f"commands:\n{listing(COMMANDS)}\n\n"
        "'hiddenkey COMMAND --help' shows a command's settings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown = f"hiddenkey {__version__}"
    parser.add_argument("--version", action="version", version=shown)
    parser.add_argument("command", choices=list(COMMANDS), metavar="COMMAND")
    return parser


if __name__ == "__main__":
    sys.exit(main())
