"""Gives each data-parallel process random numbers of its own, though all are seeded alike.

Trainers seed every process with the same number, and samplers rely on it: they draw the same order
everywhere. Dropout must not be the same, or a step over eight processes averages eight times the
same masks. So each training pass takes one number from PyTorch's global generator, seeds the
generators with that number and the process's place for as long as the pass lasts, and puts them
back. Whoever draws outside the passes sees one number a pass go, on every process the same.

Processes that compute parts of one batch (tensor parallelism) share a place: their hidden states
are copies of each other, and so must be what is dropped of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch._compile import _disable_dynamo

from hiddenkey.anatomy.sharding import is_fsdp
from hiddenkey.errors import AttachError

_TENSOR_PARALLEL = "tp"  # its name in the meshes of transformers, accelerate and torchtitan
_ODD = 0x9E3779B97F4A7C15  # an odd factor: seeds differ in the 32 bits that a CPU's generator reads
_SEEDS = 2**64


def rank_faults(rank: object) -> list[str]:
    """Return what is wrong with a data-parallel rank, in a list of one sentence or none."""
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 0
    if rank is None or is_rank:
        return []
    return [f"data_parallel_rank must be a whole number ≥ 0 or None, got {rank!r}; None finds it"]


class OwnRandomNumbers:
    """The random numbers of one attached model in its training passes.

    Args:
        transformer: the Hugging Face model.
        layers: its layers, which give the devices.
        data_parallel_rank: this process's place among those that see different data; ``None``
            finds it out.
    """

    def __init__(
        self, transformer: nn.Module, layers: Iterable[nn.Module], data_parallel_rank: int | None
    ) -> None:
        self._transformer = transformer
        self._layers = tuple(layers)
        self._given = data_parallel_rank
        self._found: tuple[Any, int] | None = None  # the process group it was found for
        self._before: list[tuple[torch.device, Tensor]] = []
        self._seeded = 0  # what the generators are seeded with in the pass at work

    def begin(self) -> None:
        """Seed the generators for one training pass; does nothing in a single process.

        Raises:
            AttachError: if the processes' places cannot be found out, or those that share a batch
                are not seeded alike.
        """
        if self._given is not None or has_several_processes():
            self._seed()

    def end(self) -> None:
        """Put the generators back. Does nothing twice, nor to what was seeded anew since.

        A pass that Ctrl-C ended ends when the next one begins; a seed that was set in between
        counts.
        """
        if self._before:
            self._restore()

    @_disable_dynamo  # a compiled graph has no generators to seed
    def _seed(self) -> None:
        number = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
        rank = self._given if self._given is not None else self._rank(number)
        seed = (number + (rank + 1) * _ODD) % _SEEDS
        devices = [torch.device("cpu"), *self._accelerators()]
        self._before = [(device, _generator(device).get_state()) for device in devices]
        self._seeded = seed
        for device in devices:
            _generator(device).manual_seed(seed)

    @_disable_dynamo
    def _restore(self) -> None:
        for device, state in self._before:
            generator = _generator(device)
            if generator.initial_seed() % _SEEDS == self._seeded:
                generator.set_state(state)
        self._before = []

    def _accelerators(self) -> list[torch.device]:
        first = (next(layer.parameters(), None) for layer in self._layers)
        devices = {parameter.device for parameter in first if parameter is not None}
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # offloaded weights lie on the CPU and are used here
            devices.add(torch.device("cuda", torch.cuda.current_device()))
        return [device for device in devices if device.type not in ("cpu", "meta")]

    def _rank(self, number: int) -> int:
        """Return this process's place, looked up once for each process group."""
        world = distributed.group.WORLD
        if self._found is None or self._found[0] is not world:
            _refuse_split_sequences()
            sharing = _sharing_a_batch(self._transformer)
            if sharing is None:
                place = distributed.get_rank()
            else:
                place = min(distributed.get_process_group_ranks(sharing))
                _refuse_different_numbers(number, sharing)
            self._found = (world, place)
        return self._found[1]


def has_several_processes() -> bool:
    """Whether this process trains together with others."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    return distributed.get_world_size() > 1


def means_over_processes(values: Mapping[str, float], device: torch.device) -> dict[str, float]:
    """Return each value's mean over all processes, which must all call this; NaN counts nowhere.

    Args:
        values: the same keys in each process.
        device: where the process group's backend works.
    """
    if not has_several_processes() or not values:
        return dict(values)
    own = torch.tensor(list(values.values()), dtype=torch.float32, device=device)
    known = ~own.isnan()
    sums = torch.stack([own.nan_to_num(), known.float()])
    distributed.all_reduce(sums)
    means = sums[0] / sums[1]  # 0 / 0 is NaN where no process knew
    return dict(zip(values, means.tolist(), strict=True))


def refuse_replica(module: nn.Module) -> None:
    """Refuse a copy of a model that ``nn.DataParallel`` made for one pass.

    Raises:
        AttachError: if the module is such a copy.
    """
    if getattr(module, "_is_replica", False):
        raise AttachError(
            "nn.DataParallel, which Trainer takes where one process sees several GPUs, runs copies"
            " of the model in threads, whose noise and losses would mix; start a process for each"
            " GPU (torchrun --nproc-per-node N script.py), or show it one (CUDA_VISIBLE_DEVICES=0)"
        )


def _generator(device: torch.device) -> Any:
    """Return a device's global generator; its state is the host's, so no device is waited for."""
    if device.type == "cpu":
        return torch.default_generator
    backend: Any = torch.get_device_module(device)
    index = backend.current_device() if device.index is None else device.index
    return backend.default_generators[index]


def _sharing_a_batch(transformer: nn.Module) -> Any:
    """Return the process group that computes parts of one batch; ``None`` if each has its own.

    The meshes of sharded weights tell: without FSDP2 all their dimensions are tensor-parallel.
    """
    is_data_sharded = any(is_fsdp(module) for module in transformer.modules())
    for parameter in transformer.parameters():
        mesh: Any = getattr(parameter, "device_mesh", None)
        if mesh is None:
            continue
        if _TENSOR_PARALLEL in (mesh.mesh_dim_names or ()):
            return mesh.get_group(_TENSOR_PARALLEL)
        if is_data_sharded:
            continue
        if mesh.ndim == 1:
            return mesh.get_group()
        raise AttachError(
            f"weights are sharded over a mesh with the dimensions {mesh.mesh_dim_names}, of which"
            f" none is called {_TENSOR_PARALLEL!r}, so it is unknown which processes must draw the"
            " same masks; name the tensor-parallel dimension so, or pass attach(...,"
            " data_parallel_rank=<the same number for processes that share a batch>)"
        )
    return None


def _refuse_different_numbers(number: int, sharing: Any) -> None:
    numbers: list[Any] = [None] * distributed.get_world_size(sharing)
    distributed.all_gather_object(numbers, number, group=sharing)
    if len(set(numbers)) > 1:
        raise AttachError(
            "tensor-parallel processes must draw the same masks, but their generators differ; seed"
            " them alike before training, for example with transformers.set_seed(0)"
        )


def _refuse_split_sequences() -> None:
    """Refuse context and sequence parallelism, as far as accelerate knows of it."""
    state: Any = getattr(sys.modules.get("accelerate.state"), "AcceleratorState", None)
    settings: Any = None if state is None else state._shared_state.get("parallelism_config")
    for name in ("cp_size", "sp_size"):
        size = getattr(settings, name, 1) or 1
        if size > 1:
            raise AttachError(
                f"{name} must be 1, got {size}: each process sees a part of every sequence then, so"
                " that a key would be dropped for some queries only; use FSDP2 with activation"
                " checkpointing for long sequences, or detach"
            )
