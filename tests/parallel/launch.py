"""Runs a function in several processes joined by gloo, and ends them when they take too long.

The processes are forks of a server that has imported the libraries already, so that they start at
once.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["transformers.trainer", "peft", "torch.distributed.fsdp"])

_LAST_WORDS = 2.0
"""Seconds for the others to say what went wrong once one has failed."""


def on_processes(
    function: Callable[..., Any], *arguments: Any, count: int = 2, limit: float = 90.0
) -> list[Any]:
    """Return what ``function(*arguments)`` returned in each process, by rank.

    Args:
        function: of a module that can be imported by its name.
        arguments: alike for all processes.
        count: of processes; they find RANK, WORLD_SIZE and LOCAL_RANK, and a process group.
        limit: seconds until all are ended.
    """
    with tempfile.TemporaryDirectory() as folder:
        pipes = [_SERVER.Pipe(duplex=False) for _ in range(count)]
        processes = [
            _SERVER.Process(
                target=_work, args=(rank, count, folder, pipes[rank][1], function, arguments)
            )
            for rank in range(count)
        ]
        for process, (_, sender) in zip(processes, pipes, strict=True):
            process.start()
            sender.close()
        try:
            return _collect([receiver for receiver, _ in pipes], time.monotonic() + limit)
        finally:
            for process in processes:
                process.join(5)
                process.kill()
                process.join()


def _collect(receivers: list[Connection], deadline: float) -> list[Any]:
    """Wait for all answers; what failed first is what is raised, not the others' broken pipes."""
    found: dict[int, Any] = {}
    failed: list[tuple[float, int, str]] = []
    while len(found) < len(receivers):
        for rank, receiver in enumerate(receivers):
            if rank not in found and receiver.poll(0.05):
                found[rank] = torch.load(io.BytesIO(receiver.recv_bytes()), weights_only=False)
                if found[rank][0] == "error":
                    failed.append((found[rank][2], rank, found[rank][1]))
                    deadline = min(deadline, time.monotonic() + _LAST_WORDS)
        if time.monotonic() > deadline:
            break
    if failed:
        _, rank, error = min(failed)
        raise AssertionError(f"process {rank} failed:\n{error}")
    if waiting := sorted(set(range(len(receivers))) - set(found)):
        raise AssertionError(f"processes {waiting} did not end in time")
    return [found[rank][1] for rank in range(len(receivers))]


def _work(
    rank: int,
    count: int,
    folder: str,
    sender: Connection,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "ACCELERATE_USE_CPU": "true"}
    store = distributed.FileStore(str(Path(folder) / "store"), count)
    wait = timedelta(seconds=30)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=wait)
    try:
        answer = ("result", function(*arguments), time.monotonic())
    except BaseException:
        answer = ("error", traceback.format_exc(), time.monotonic())
    buffer = io.BytesIO()
    torch.save(answer, buffer)
    sender.send_bytes(buffer.getvalue())
    if answer[0] == "result":
        distributed.barrier()
        distributed.destroy_process_group()
