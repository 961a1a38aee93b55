"""No name of this library stands where transformers or a user reads one."""

import copy
import gc
import io
import json
import subprocess
import sys
import threading

import pytest
import torch
import transformers
from torch._guards import CompileContext, compile_context
from transformers import AttentionInterface, GPT2Config
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import hiddenkey
from hiddenkey import Drop, DropoutConfig
from hiddenkey.attention import dispatch
from model_tables.build import build
from model_tables.model_types import tasks_of
from models import assert_same_gradients, plain_model, snapshot, step
from models import batch as batch_of

TYPES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "vit")
if not transformers.__version__.startswith("4."):  # where these choose their class by the name
    TYPES = ("bert", "roberta", "t5", "bart", *TYPES)
OWN_CODE = ("t5",)  # it computes attention by itself, whatever the implementation is called
NOISE = hiddenkey.method("hiddenkey", rate=0.4)
DROPKEY = hiddenkey.method("dropkey", rate=0.4)


def tiny(model_type, attention, padding="left"):
    """Return a tiny model without dropout of its own, and a batch for it."""
    found = build(model_type, tasks_of(model_type)[0])
    config = copy.deepcopy(found.model.config)
    for name, value in vars(config).items():
        if ("dropout" in name or "pdrop" in name) and isinstance(value, float):
            setattr(config, name, 0.0)
    model = type(found.model)._from_config(config, attn_implementation=attention)
    model.load_state_dict(found.model.state_dict())
    return model.train(), found.batch_left if padding == "left" else found.batch_right


@pytest.fixture(autouse=True)
def no_users():
    """Let no attached model of an earlier test keep, or give back, what is in the tables."""
    dispatch._users.clear()
    dispatch._unregister_unused()


@pytest.fixture(params=TYPES)
def model_type(request):
    return request.param


@pytest.fixture(params=["sdpa", "eager"])
def attention(request):
    return request.param


@pytest.fixture
def model_and_batch(model_type, attention):
    return tiny(model_type, attention)


def names_of(model):
    configs = {"": model.config}
    configs |= {
        name: part.config for name, part in model.named_modules() if hasattr(part, "config")
    }
    return {name: config._attn_implementation for name, config in configs.items()}


def maps_of(output):
    """Return all attention maps of an output, by kind."""
    return {kind: maps for kind, maps in output.items() if kind.endswith("attentions") and maps}


def assert_equal_outputs(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other[key]), key
        elif key.endswith(("attentions", "states")):
            assert len(value) == len(other[key])
            for mine, its in zip(value, other[key], strict=True):
                assert mine is its or torch.equal(mine, its), key


def test_every_config_keeps_its_name(model_and_batch):
    model, batch = model_and_batch
    before, tables = names_of(model), tables_of_transformers()
    seen = []
    handle = model.register_forward_hook(
        lambda module, args, output: seen.append(module.config._attn_implementation)
    )
    untouched = snapshot(model)
    attachment = hiddenkey.attach(model, NOISE)
    step(model, batch)
    assert seen
    assert set(seen) == {model.config._attn_implementation}
    model.eval()
    assert names_of(model) == before
    assert "hiddenkey" not in json.dumps(model.config.to_dict(), default=str)
    model.train()
    attachment.detach()
    assert snapshot(model) == untouched
    assert tables_of_transformers() == tables
    handle.remove()


def tables_of_transformers():
    gc.collect()
    functions = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ALL_ATTENTION_FUNCTIONS}
    masks = {name: ALL_MASK_ATTENTION_FUNCTIONS[name] for name in ALL_MASK_ATTENTION_FUNCTIONS}
    local = dict(ALL_MASK_ATTENTION_FUNCTIONS._local_mapping)
    return functions, masks, local, list(AttentionInterface._global_mapping)


def test_a_model_that_is_collected_while_another_is_compiled_leaves_the_tables_alone():
    """The compiler has read them, and writes guards on what it read."""
    before = tables_of_transformers()
    model = plain_model("llama")
    hiddenkey.attach(model, NOISE)
    attached = tables_of_transformers()
    with compile_context(CompileContext(None)):
        del model
        assert tables_of_transformers() == attached != before
    hiddenkey.attach(plain_model("llama"), NOISE).detach()
    assert tables_of_transformers() == before


def test_evaluation_shows_the_maps_that_it_shows_without_attachment(model_and_batch):
    model, batch = model_and_batch
    model.eval()
    asked = model(**batch, output_attentions=True)
    if is_eager := model.config._attn_implementation == "eager":
        model.config.output_attentions = True
        configured = model(**batch)
        model.config.output_attentions = False
    hiddenkey.attach(model, NOISE)
    assert_equal_outputs(model(**batch, output_attentions=True), asked)
    if is_eager:
        model.config.output_attentions = True
        assert_equal_outputs(model(**batch), configured)


def test_training_shows_the_maps_that_were_used(model_type):
    """Each row sums to one, keys are missing, and asking for maps changes nothing else."""
    model, batch = tiny(model_type, "eager", "right")  # so that every query sees a key
    clean = maps_of(model(**batch, output_attentions=True))
    hiddenkey.attach(model, DROPKEY)
    torch.manual_seed(0)
    loss = model(**batch).loss
    torch.manual_seed(0)
    output = model(**batch, output_attentions=True)
    torch.testing.assert_close(output.loss, loss)
    maps = maps_of(output)
    assert maps.keys() == clean.keys()
    assert maps
    for kind, layers in maps.items():
        assert len(layers) == len(clean[kind]) > 0
        for noisy, plain in zip(layers, clean[kind], strict=True):
            assert noisy.shape == plain.shape
            seen = plain.sum(-1) > 0.5
            torch.testing.assert_close(noisy.sum(-1)[seen], torch.ones(int(seen.sum())))
            dropped = ((noisy == 0) & (plain > 1e-6)).sum() / (plain > 1e-6).sum()
            assert 0.05 < dropped < 0.6
            assert not ((noisy > 0) & (plain == 0))[seen].any()


@pytest.mark.parametrize("method", ["dropkey", "dropattention"])
def test_a_map_times_the_values_is_the_layers_output(method):
    model = plain_model("bert", attention="eager", dropout=0.0)
    layer = model.bert.encoder.layer[0].attention.self
    values, outputs = [], []
    layer.value.register_forward_hook(lambda module, args, output: values.append(output))
    layer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    hiddenkey.attach(model, hiddenkey.method(method, rate=0.4))
    weights = model(**batch_of(), output_attentions=True).attentions[0]
    heads = values[0].unflatten(-1, (weights.shape[1], -1)).transpose(1, 2)
    torch.testing.assert_close((weights @ heads).transpose(1, 2).flatten(2), outputs[0])


def test_sdpa_gives_no_map_in_training_as_without_attachment(model_type):
    if model_type in OWN_CODE:
        pytest.skip("it computes its map whatever the implementation is called")
    model, batch = tiny(model_type, "sdpa")
    expected = maps_of(model(**batch, output_attentions=True))
    hiddenkey.attach(model, DROPKEY)
    assert maps_of(model(**batch, output_attentions=True)) == expected


def test_a_second_model_of_the_same_config_is_a_model_of_its_own(model_type, attention):
    teacher, batch = tiny(model_type, attention)
    twin, _ = tiny(model_type, attention)
    expected = step(twin, batch, 1)
    attachment = hiddenkey.attach(teacher, NOISE)
    student = type(teacher)(teacher.config).train()
    student.load_state_dict(twin.state_dict())
    loss, gradients = step(student, batch, 1)
    assert loss == expected[0]
    assert_same_gradients(gradients, expected[1], rtol=0, atol=0)
    hiddenkey.attach(student, NOISE)
    assert step(student, batch, 1)[0] != expected[0]
    attachment.detach()
    del teacher, attachment
    gc.collect()
    assert step(student, batch, 1)[0] != expected[0]
    hiddenkey.attach(type(student)(student.config), NOISE)


_OTHER_PROCESS = """
import sys, torch
for name in sys.argv[1:]:
    model, batch, expected, noisy = torch.load(name, weights_only=False)
    model.train()
    torch.manual_seed(3)
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == noisy, (name, loss.item(), noisy)
    model.eval()
    assert torch.equal(model(**batch).loss, expected), name
"""


def test_a_saved_model_runs_in_another_process(tmp_path):
    files = []
    for model_type in TYPES:
        model, batch = tiny(model_type, "sdpa")
        hiddenkey.attach(model, NOISE)
        step(model, batch)
        noisy, _ = step(model, batch, 3)
        expected = model.eval()(**batch).loss.detach()
        files.append(str(tmp_path / model_type))
        torch.save((model, batch, expected, noisy), files[-1])
    subprocess.run([sys.executable, "-c", _OTHER_PROCESS, *files], check=True)


def test_noise_goes_on_under_another_implementation(model_and_batch):
    model, batch = model_and_batch
    attachment = hiddenkey.attach(model, DROPKEY)
    step(model, batch)
    attachment.shares()
    other = "eager" if model.config._attn_implementation == "sdpa" else "sdpa"
    model.set_attn_implementation(other)
    assert model.config._attn_implementation == other
    assert step(model, batch, 1)[0] != step(model, batch, 2)[0]
    assert all(0.1 < share < 0.7 for share in attachment.shares().values())
    attachment.detach()
    assert model.config._attn_implementation == other


def test_a_change_of_the_config_is_seen_while_attached():
    model = plain_model("gpt2")
    hiddenkey.attach(model, DROPKEY)
    module = model.transformer.h[0].attn
    model.config.is_decoder = True
    assert module.config.is_decoder
    module.config.is_decoder = False
    assert not model.config.is_decoder
    assert not hasattr(module.config, "no such field")
    assert isinstance(copy.deepcopy(model.config), GPT2Config)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda model: pickled(model)])
@pytest.mark.parametrize("kind", ["llama", "bloom", "deberta-v2", "longformer"])
def test_a_copy_drops_after_its_original_was_detached(kind, way):
    """Also where attention is a model's own code, by blocks in the last of them."""
    found = build(kind, tasks_of(kind)[0])
    model, batch = found.model, found.batch_right
    attachment = hiddenkey.attach(model, DROPKEY)
    expected = step(model, batch)[0]
    double = way(model)
    name = model.config._attn_implementation
    attachment.detach()
    assert double.config._attn_implementation == name
    assert step(double, batch)[0] == expected


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_tables_are_as_before_when_a_model_goes_without_being_detached():
    before = tables_of_transformers()
    model = plain_model("gpt2")
    hiddenkey.attach(model, DROPKEY)
    assert tables_of_transformers() != before
    del model
    assert tables_of_transformers() == before


def test_builders_of_masks_that_a_user_set_are_given_back(monkeypatch):
    def own(*args, **kwargs):
        raise NotImplementedError

    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._local_mapping, "sdpa", own)
    hiddenkey.attach(plain_model("gpt2"), DROPKEY).detach()
    assert ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] is own


def test_other_threads_run_other_models_as_they_would_alone():
    """One thread trains an attached model, another a plain one of the same config object."""
    noisy = plain_model("bert", dropout=0.0)
    plain = type(noisy)(noisy.config).train()
    inputs = batch_of()
    expected = plain(**inputs).logits
    hiddenkey.attach(noisy, DropoutConfig((Drop("attention_logits", "column", 0.4),)))
    before = noisy(**inputs).logits
    found, stop = [], threading.Event()

    def run_plain():
        while not stop.is_set():
            found.append(torch.equal(plain(**inputs).logits, expected))

    other = threading.Thread(target=run_plain)
    other.start()
    drops = [not torch.equal(noisy(**inputs).logits, before) for _ in range(30)]
    stop.set()
    other.join()
    assert all(drops)
    assert found
    assert all(found)
