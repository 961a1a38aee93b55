"""Which random numbers each process draws, and what others see of it."""

import math
import tempfile
import types
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

import hiddenkey
from hiddenkey import AttachError
from hiddenkey.step.parallel import OwnRandomNumbers, means_over_processes
from models import batch, lora_model, plain_model, transformer_in, with_lora
from parallel.launch import on_processes
from parallel.scenes import configured, whole

RATE = 0.3


def noisy_outputs(attachment: hiddenkey.Attachment, model: nn.Module) -> list[Tensor]:
    """Return what will come out of each place where hidden states or attention are noisy."""
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        states = output[0] if isinstance(output, tuple) else output
        outputs.append(states.detach().clone())

    for site in attachment.sites:
        transformer_in(model).get_submodule(site.name).register_forward_hook(keep)
    return outputs


def masked(rank: int | None = None, seed: int = 3, *, passes: int = 1) -> list[Tensor]:
    """Run passes over one batch, alike in all processes; return what the noise made of it."""
    model = lora_model("bert")
    attachment = hiddenkey.attach(model, configured(RATE), data_parallel_rank=rank)
    outputs = noisy_outputs(attachment, model)
    torch.manual_seed(seed)
    for _ in range(passes):
        model(**batch()).loss.backward()
    return outputs


def masked_twice() -> tuple[list[Tensor], list[Tensor]]:
    return masked(), masked()


def assert_different(one: list[Tensor], other: list[Tensor]) -> None:
    assert len(one) == len(other) > 0
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_processes_seeded_alike_draw_different_masks_each_time_the_same():
    (one, again), (other, _) = on_processes(masked_twice)
    assert_different(one, other)
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    torch.testing.assert_close(one, masked(0), rtol=0, atol=0)
    torch.testing.assert_close(other, masked(1), rtol=0, atol=0)


def test_many_ranks_and_passes_draw_different_masks():
    places = [masked(rank, passes=2) for rank in range(5)]
    for index, one in enumerate(places):
        half = len(one) // 2
        assert_different(one[:half], one[half:])
        for other in places[:index]:
            assert_different(one, other)


def test_one_process_draws_from_the_generator_itself():
    model = lora_model("bert")
    hiddenkey.attach(model, configured(RATE))
    torch.manual_seed(3)
    model(**batch())
    used = torch.get_rng_state()
    torch.manual_seed(3)
    torch.empty((), dtype=torch.int64).random_()
    assert not torch.equal(used, torch.get_rng_state())


class _FailureError(Exception):
    pass


def numbers_outside(rank: int | None = None) -> list[Tensor]:
    """Draw before, between and after passes, of which one fails and one is an evaluation."""
    model = lora_model("bert")
    hiddenkey.attach(model, configured(RATE), data_parallel_rank=rank)
    torch.manual_seed(3)
    seen = [torch.rand(2)]
    model(**batch()).loss.backward()
    seen.append(torch.rand(2))
    handle = transformer_in(model).classifier.register_forward_hook(_fail)
    with pytest.raises(_FailureError):
        model(**batch())
    handle.remove()
    seen.append(torch.rand(2))
    model.eval()(**batch())
    seen.append(torch.rand(2))
    return seen


def _fail(*_: Any) -> None:
    raise _FailureError


def test_outside_the_passes_everyone_sees_one_number_a_pass_go():
    torch.manual_seed(3)
    expected = [torch.rand(2)]
    for passes in (1, 1, 0):
        for _ in range(passes):
            torch.empty((), dtype=torch.int64).random_()
        expected.append(torch.rand(2))
    for seen in [*on_processes(numbers_outside), numbers_outside(0)]:
        torch.testing.assert_close(seen, expected, rtol=0, atol=0)


def compiled() -> tuple[Tensor, Tensor, Tensor]:
    model = lora_model("bert")
    hiddenkey.attach(model, configured(RATE))
    torch.manual_seed(3)
    step = torch.compile(DistributedDataParallel(model), backend="eager")
    first, second = (step(**batch()).loss for _ in range(2))
    (first + second).backward()
    return first.detach(), second.detach(), torch.rand(2)


def plain() -> tuple[Tensor, Tensor, Tensor]:
    model = lora_model("bert")
    hiddenkey.attach(model, configured(RATE))
    torch.manual_seed(3)
    first, second = (model(**batch()).loss.detach() for _ in range(2))
    return first, second, torch.rand(2)


def test_a_compiled_step_draws_like_others():
    (one, again, after), (other, _, other_after) = on_processes(compiled)
    assert one != again
    assert one != other
    torch.testing.assert_close(after, other_after, rtol=0, atol=0)
    torch.testing.assert_close(after, on_processes(plain)[0][2], rtol=0, atol=0)


def tensor_parallel(
    folder: str, task: str, rate: float, lora: bool = False, seeds: tuple[int, int] = (3, 3)
) -> dict[str, Any]:
    """One step of a model that two processes hold half of each."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.distributed import DistributedConfig

    auto = AutoModelForCausalLM if task == "causal" else AutoModelForSequenceClassification
    model = auto.from_pretrained(folder, distributed_config=DistributedConfig(tp_size=2)).train()
    if lora:
        model = with_lora(model, "llama", task)
    attachment = hiddenkey.attach(model, configured(rate))
    outputs = noisy_outputs(attachment, model)
    torch.manual_seed(seeds[distributed.get_rank()])
    loss = model(**batch(task)).loss
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    places = zip(outputs, attachment.sites * 2, strict=True)  # two passes
    hidden = [states for states, site in places if site.position == "hidden"]
    return {"loss": loss.detach(), "hidden": hidden, "gradients": whole(gradients)}


def llama(task: str) -> Any:
    return plain_model("llama", task, dropout=0.0)


@pytest.fixture(params=["causal", "classification"])
def saved(request):
    with tempfile.TemporaryDirectory() as folder:
        llama(request.param).save_pretrained(folder)
        yield folder, request.param


def test_tensor_parallel_processes_draw_the_same_masks(saved):
    for lora in (False, True):
        one, other = on_processes(tensor_parallel, *saved, RATE, lora)
        torch.testing.assert_close(one, other)
        assert one["hidden"]
        assert any((states == 0).any() for states in one["hidden"])


def test_tensor_parallel_processes_compute_what_one_does(saved):
    folder, task = saved
    model = llama(task)
    hiddenkey.attach(model, configured(0.0))
    loss = model(**batch(task)).loss
    loss.backward()
    expected = whole({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    for found in on_processes(tensor_parallel, folder, task, 0.0):
        torch.testing.assert_close(found["loss"], loss.detach())
        torch.testing.assert_close(found["gradients"], expected)


def test_tensor_parallel_processes_that_are_seeded_differently_are_refused(saved):
    with pytest.raises(AssertionError, match=r"AttachError: .* their generators differ; seed"):
        on_processes(tensor_parallel, *saved, RATE, False, (3, 4))


def on_a_mesh(names: tuple[str, str], rank: int | None = None) -> str:
    """Run a pass of a model with one weight on a mesh of two dimensions."""
    model = plain_model("bert")
    mesh = init_device_mesh("cpu", (1, distributed.get_world_size()), mesh_dim_names=names)
    weight = model.bert.embeddings.token_type_embeddings.weight
    sharded = distribute_tensor(weight.detach(), mesh[names[1]], [Shard(1)])
    if rank is None:
        sharded = distribute_tensor(weight.detach(), mesh, [Shard(0), Shard(1)])
    model.bert.embeddings.unused = nn.Parameter(sharded)
    attachment = hiddenkey.attach(model, configured(RATE), data_parallel_rank=rank)
    torch.manual_seed(3)
    try:
        model(**batch())
    except AttachError as error:
        return str(error)
    return f"{attachment.losses['task']:.6f}"


def test_a_mesh_without_known_names_is_refused_unless_the_place_is_given():
    for message in on_processes(on_a_mesh, ("replicas", "parts")):
        assert "of which none is called 'tp'" in message
        assert "data_parallel_rank=<the same number" in message
    one, other = on_processes(on_a_mesh, ("replicas", "parts"), 0)
    assert one == other
    one, other = on_processes(on_a_mesh, ("dp", "tp"))
    assert one == other


def with_parts_of_sequences(sizes: dict[str, int]) -> str:
    from accelerate.state import AcceleratorState

    AcceleratorState._shared_state["parallelism_config"] = types.SimpleNamespace(**sizes)
    model = plain_model("bert")
    hiddenkey.attach(model, configured(RATE))
    try:
        model(**batch())
    except AttachError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", ["cp_size", "sp_size"])
def test_parts_of_sequences_are_refused(name):
    sizes = {"cp_size": 1, "sp_size": 1, name: 2}
    for message in on_processes(with_parts_of_sequences, sizes):
        assert message.startswith(f"{name} must be 1, got 2: each process sees a part")
    for message in on_processes(with_parts_of_sequences, {"cp_size": 1, "sp_size": 1}):
        assert message == ""


class _Layer(nn.Module):
    """A layer whose weights say that they are on a GPU."""

    def parameters(self, recurse: bool = True) -> Any:
        return iter([types.SimpleNamespace(device=torch.device("cuda", 1))])


def test_the_generators_of_the_models_devices_are_lent_too(monkeypatch):
    cpu, gpus = torch.default_generator, [torch.Generator(), torch.Generator()]
    backend = types.SimpleNamespace(default_generators=gpus, current_device=lambda: 0)
    monkeypatch.setattr(torch, "get_device_module", lambda device: backend)
    before = [gpu.get_state() for gpu in gpus]
    seeds = []
    for rank in (0, 1):
        draws = OwnRandomNumbers(nn.Module(), [_Layer(), _Layer()], rank)
        torch.manual_seed(3)
        draws.begin()
        assert gpus[1].initial_seed() == cpu.initial_seed()
        assert torch.equal(gpus[0].get_state(), before[0])
        seeds.append(cpu.initial_seed())
        draws.end()
        assert cpu.initial_seed() == 3
        for gpu, state in zip(gpus, before, strict=True):
            assert torch.equal(gpu.get_state(), state)
    assert len({seed % 2**32 for seed in seeds}) == 2  # all that a CPU's generator reads of a seed


def test_the_generator_is_lent_where_offloaded_weights_are_used(monkeypatch):
    gpu = torch.Generator()
    backend = types.SimpleNamespace(default_generators=[gpu])
    monkeypatch.setattr(torch, "get_device_module", lambda device: backend)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    before = gpu.get_state()
    draws = OwnRandomNumbers(nn.Module(), [nn.Linear(2, 2)], 1)
    draws.begin()
    assert gpu.initial_seed() == torch.initial_seed()
    draws.end()
    assert torch.equal(gpu.get_state(), before)


def averaged() -> dict[str, float]:
    rank = distributed.get_rank()
    values = {"both": 1.0 + rank, "one": 4.0 if rank else float("nan"), "none": float("nan")}
    return means_over_processes(values, torch.device("cpu"))


def test_means_pass_over_what_a_process_does_not_know():
    for means in on_processes(averaged):
        assert (means["both"], means["one"]) == (1.5, 4.0)
        assert math.isnan(means["none"])
    assert means_over_processes({"own": 2.0}, torch.device("cpu")) == {"own": 2.0}


def test_copies_of_data_parallel_are_refused_in_training():
    model = plain_model("bert")
    hiddenkey.attach(model, configured(RATE))
    with pytest.raises(AttachError, match=r"nn\.DataParallel, .* start a process for each GPU"):
        model._replicate_for_data_parallel()(**batch())
    model.eval()._replicate_for_data_parallel()(**batch())
