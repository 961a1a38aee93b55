"""What a model predicted for each example in the example's last training pass."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, distributed

from hiddenkey.chunked_loss.sums import IGNORED_LABEL
from hiddenkey.errors import ConsistencyError
from hiddenkey.framework.compensation.temporal import narrowed
from hiddenkey.log import logger
from hiddenkey.step.identity import INDEX, RULE, Identities

_FIRST_CAPACITY = 256
LARGEST_GIB = 4.0
"""Where the store ends, in GiB; examples that never come back would fill any memory."""

_OTHER_RULE = (
    "the stored predictions are of another version of hiddenkey, which recognised examples by other"
    " inputs of theirs; they are not used, so that the temporal loss begins after one more epoch"
)


class History:
    """Predictions by example: a row of numbers for each unit (sequence, label or token) of it.

    A row that was never written, or with a number that is not finite, is unseen.

    Args:
        adapters: whose predictions go by an example's own key, where adapters take turns.

    Attributes:
        adapters: those; what was stored says whose it is.
        passes: training passes so far, the age of what is kept.
        visits: examples that were seen, counted over all passes.
        recognised: those of them that an earlier pass had seen.
    """

    def __init__(self, adapters: tuple[str, ...] = ()) -> None:
        self.adapters = adapters
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.passes = self.visits = self.recognised = 0
        self._blocks: dict[int, tuple[int, int]] = {}  # example → its first row, number of rows
        self._contents: dict[int, int] = {}
        self._ages: dict[int, int] = {}
        self._size = 0
        self._has_repeats = False  # in the pass at work, whose batch holds an example twice
        self._values: Tensor | None = None
        self._classes: Tensor | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def bytes(self) -> int:
        """Memory of the rows in use."""
        tensors = [each for each in (self._values, self._classes) if each is not None]
        return sum(self._size * each.shape[1] * each.element_size() for each in tensors)

    @property
    def capacity_bytes(self) -> int:
        """Memory of all rows, also of those that wait for further examples."""
        return sum(each.nbytes for each in (self._values, self._classes) if each is not None)

    def rows_of(self, who: Identities, counts: Sequence[int]) -> list[int]:
        """Return the first row of each example of a batch; new ones get theirs.

        Args:
            who: the examples are.
            counts: rows of each.

        Raises:
            ConsistencyError: if a number stands for two examples, or if an example's number of
                rows depends on how its batch is padded.
        """
        self.passes += 1
        seen = self._ages.keys() & set(who.keys)
        self._has_repeats = len(set(who.keys)) < len(who.keys)
        starts = []
        for key, content, count in zip(who.keys, who.contents, counts, strict=True):
            if key not in self._blocks:
                self._blocks[key] = (self._size, count)
                self._contents[key] = content
                self._size += count
            start, known = self._blocks[key]
            if self._contents[key] != content or known != count:
                is_same = self._contents[key] == content
                raise ConsistencyError(_changed(key, is_same, known, count))
            self.visits += 1
            self.recognised += key in seen
            self._ages[key] = self.passes
            starts.append(start)
        return starts

    def read(self, rows: Tensor, like: Tensor, classes: int = 0) -> tuple[Tensor, Tensor | None]:
        """Return what is kept in some rows; NaN where nothing is.

        Args:
            rows: ``[units]`` indices.
            like: ``[units, width]``, for width, type and device.
            classes: how many class numbers belong to a row.

        Returns:
            ``[units, width]``; and ``[units, classes]``, or ``None`` if that is 0.

        Raises:
            ConsistencyError: if the store has outgrown its limit.
        """
        width = like.shape[1]
        kind = torch.promote_types(like.dtype, torch.float32)
        self._keep_readable(classes)
        self._values = _grown(self._values, self._size, width, kind, torch.nan, like.device)
        if classes:
            self._classes = _grown(self._classes, self._size, classes, torch.int32, 0, like.device)
        if self.bytes > LARGEST_GIB * 2**30:
            raise ConsistencyError(_too_large(self))
        found = self._values[rows, :width]
        return found, None if not classes else self._classes_at(rows)

    def write(self, rows: Tensor, values: Tensor, classes: Tensor | None = None) -> None:
        """Keep the predictions of a pass.

        Args:
            rows: ``[units]`` indices, after :meth:`read` of the same ones.
            values: ``[units, width]``, without gradient.
            classes: ``[units, classes]``.
        """
        assert self._values is not None
        if self._has_repeats:  # several writers of one row would mix on a GPU
            last = _last_of_each(rows, self._size)
            values, classes = values[last], None if classes is None else classes[last]
        width = values.shape[1]
        self._values[rows, :width] = values.to(self._values.dtype)
        self._values[rows, width:] = torch.nan  # of a longer row before
        if classes is not None and self._classes is not None:
            self._classes[rows] = classes.to(torch.int32)

    def _keep_readable(self, classes: int) -> None:
        """Bring what is kept to another number of classes; a resumed training may ask for one."""
        if self._values is None:
            return
        if (self._classes is None) != (classes == 0):  # columns are then other classes
            self._values.fill_(torch.nan)
            self._classes = None
        elif self._classes is not None and self._classes.shape[1] > classes:
            self._values, self._classes = narrowed(self._values, self._classes, classes)

    def _classes_at(self, rows: Tensor) -> Tensor:
        assert self._classes is not None
        return self._classes[rows].long()

    def state_dict(self) -> dict[str, Tensor]:
        """Return all that is kept, as tensors on the CPU; empty before the first pass."""
        if self._values is None:
            return {}
        keys = list(self._blocks)
        starts, counts = zip(*self._blocks.values(), strict=True)
        numbers = {
            "keys": keys,
            "contents": [self._contents[key] for key in keys],
            "ages": [self._ages[key] for key in keys],
            "counts": list(counts),
            "passes": [self.passes],
            "rule": [RULE],
        }
        state = {name: torch.tensor(each, dtype=torch.int64) for name, each in numbers.items()}
        order = rows_by_example(list(starts), list(counts), self._values.device)
        state["values"] = self._values[order].cpu()
        if self._classes is not None:
            state["classes"] = self._classes[order].cpu()
        if self.adapters:
            names = json.dumps(self.adapters).encode()
            state["adapters"] = torch.tensor([*names], dtype=torch.uint8)
        return state

    def load_state_dict(self, *states: Mapping[str, Tensor]) -> None:
        """Replace all that is kept by what :meth:`state_dict` gave, of one or several processes.

        Of an example that several have seen, the latest prediction counts. What a version kept that
        recognised examples by another rule is left out, with a warning.

        Args:
            states: of all processes; empty ones hold nothing.

        Raises:
            ConsistencyError: if they are no such states, or of models with different predictions.
        """
        device = None if self._values is None else self._values.device
        self.clear()
        given = [state for state in states if state]
        for state in given:
            if faults := _state_faults(state):
                raise ConsistencyError(f"these are no stored predictions: {faults}")
        known = [state for state in given if _rule_of(state) == RULE]
        if len(known) < len(given):
            logger.warning(_OTHER_RULE)
        for state in known:
            self.adapters = _adapters_of(state) or self.adapters
            self._merge(state, device)

    def _merge(self, state: Mapping[str, Tensor], device: torch.device | None) -> None:
        values, classes = state["values"].to(device), state.get("classes")
        keys, contents = state["keys"].tolist(), state["contents"].tolist()
        ages, counts = state["ages"].tolist(), state["counts"].tolist()
        taken: list[int] = []
        self.passes = max(self.passes, int(state["passes"].item()))
        for each, key in enumerate(keys):
            if key in self._blocks and self._ages[key] >= ages[each]:
                continue
            if key not in self._blocks:
                self._blocks[key] = (self._size, counts[each])
                self._size += counts[each]
            elif self._contents[key] != contents[each] or self._blocks[key][1] != counts[each]:
                is_same = self._contents[key] == contents[each]
                raise ConsistencyError(_changed(key, is_same, self._blocks[key][1], counts[each]))
            self._contents[key], self._ages[key] = contents[each], ages[each]
            taken.append(each)
        if not taken:
            return
        ends = state["counts"].cumsum(0).tolist()
        taken_counts = [counts[each] for each in taken]
        first = [ends[each] - counts[each] for each in taken]
        source = rows_by_example(first, taken_counts, values.device)
        own = [self._blocks[keys[each]][0] for each in taken]
        rows = rows_by_example(own, taken_counts, values.device)
        self.read(rows, values[:1], 0 if classes is None else classes.shape[1])
        self.write(rows, values[source], None if classes is None else classes.to(device)[source])

    def exchange(self) -> None:
        """Give every process what each has seen. All of them must call this; alone it is nothing.

        Call it after each epoch where a sampler hands examples to other processes, as
        PyTorch's and accelerate's do.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        states: list[dict[str, Tensor]] = [{} for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(states, self.state_dict())
        visits, recognised = self.visits, self.recognised
        self.load_state_dict(*states)
        self.visits, self.recognised = visits, recognised


def rows_by_example(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> Tensor:
    """Return the rows of a batch's examples, one example after the other, ``[units]``."""
    lengths = torch.tensor(counts, dtype=torch.int64)
    firsts = torch.tensor(starts, dtype=torch.int64).repeat_interleave(lengths)
    within = torch.arange(len(firsts)) - (lengths.cumsum(0) - lengths).repeat_interleave(lengths)
    return (firsts + within).to(device)


def _last_of_each(rows: Tensor, size: int) -> Tensor:
    """Return for each entry of ``rows``, numbers below ``size``, where its number stands last."""
    places = torch.arange(len(rows), device=rows.device)
    last = places.new_zeros(size).scatter_reduce(0, rows, places, "amax")
    return last[rows]


def _grown(
    tensor: Tensor | None,
    rows: int,
    width: int,
    kind: torch.dtype,
    fill: float,
    device: torch.device,
) -> Tensor:
    """Return a tensor of at least so many rows and columns that begins with the given one.

    What comes of a checkpoint is not yet where the model is.
    """
    tensor = None if tensor is None else tensor.to(device, kind)
    if tensor is not None and len(tensor) >= rows and tensor.shape[1] >= width:
        return tensor
    old = (0, 0) if tensor is None else (len(tensor), tensor.shape[1])
    capacity = old[0] if rows <= old[0] else max(_FIRST_CAPACITY, 2 * old[0], rows)
    grown = torch.full((capacity, max(width, old[1])), fill, dtype=kind, device=device)
    if tensor is not None:
        grown[: old[0], : old[1]] = tensor
    return grown


def _changed(key: int, is_same: bool, known: int, count: int) -> str:
    if not is_same:  # so that the script numbers its examples
        return (
            f"{INDEX} {key} stands for two different examples: it repeats, or the data set changed"
            " between epochs; number each example of the training data once, or leave it out to"
            " recognise examples by what they hold"
        )
    return (
        f"an example has {count} predictions to compare and had {known} in an earlier pass, with"
        " the same tokens and labels: its batch is padded to another length, and padding, or the"
        f" first token behind padding on the left, has a label; set these labels to {IGNORED_LABEL}"
    )


def _too_large(history: History) -> str:
    return (
        f"predictions of {len(history):,} examples take {history.bytes / 2**30:.1f} GiB, more than"
        f" {LARGEST_GIB:g}; a streamed data set without end never repeats its examples. Lower"
        " consistency.top, or use target='pass'"
    )


def _rule_of(state: Mapping[str, Tensor]) -> int:
    """Return by which rule examples were recognised; before 2 it was not stored."""
    return int(state["rule"].item()) if "rule" in state else 1


def _adapters_of(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return whose predictions go by an example's own key; earlier versions did not store it."""
    stored = state.get("adapters")
    return () if stored is None else tuple(json.loads(bytes(stored.tolist())))


def _state_faults(state: Mapping[str, Tensor]) -> str:
    wanted = ("keys", "contents", "ages", "counts", "passes", "values")
    if missing := [name for name in wanted if name not in state]:
        return f"{', '.join(missing)} missing"
    examples = len(state["keys"])
    if any(len(state[name]) != examples for name in ("contents", "ages", "counts")):
        return "their numbers of examples differ"
    rows = int(state["counts"].sum())
    if any(len(state[name]) != rows for name in ("values", "classes") if name in state):
        return "their numbers of rows differ"
    return ""
