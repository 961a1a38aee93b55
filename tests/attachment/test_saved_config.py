"""What a model's config says of its own dropout stays as its user wrote it, while all of it is off.

Most modules read their rates once, when they are built. Some read them from their config in each
pass: these must read zero, and whoever saves or copies the config must not.
"""

import copy
import dataclasses
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    FalconConfig,
    PretrainedConfig,
    Wav2Vec2Config,
    Wav2Vec2ForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

import hiddenkey
from hiddenkey import DropoutConfig
from hiddenkey.attachment import model_dropout
from hiddenkey.attachment.attachment import attachment_of
from model_tables.build import build
from model_tables.model_types import tasks_of
from models import batch, configuration, gradients, seeded, snapshot

# transformers' own advice about its EncoderDecoderModel
pytestmark = pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")

RATE = 0.3
PLAIN = DropoutConfig()
DROPKEY = hiddenkey.method("dropkey", rate=RATE)
# in whose code a forward method reads rates from the config
READERS = ("blt", "data2vec-vision", "falcon", "persimmon", "prophetnet", "wav2vec2")
TYPES = (
    *("bart", "bert", "deberta-v2", "encoder-decoder", "gemma3n_text", "gpt2", "gpt_neo", "gptj"),
    *("lilt", "llama", "mistral", "mixtral", "mobilebert", "qwen3", "roberta", "swin", "t5"),
    *("vit", "xlm", "xmod", *READERS),
)


def with_rates(config):
    """Set every dropout rate of a config, and of the configs in it."""
    for name, value in list(vars(config).items()):
        if isinstance(value, PretrainedConfig):
            with_rates(value)
        elif isinstance(value, float) and model_dropout._NOISE.search(name):
            setattr(config, name, RATE)
    return config


def made(model_type, **more):
    """Return a tiny model whose config has a rate wherever it can, and a batch."""
    if model_type == "wav2vec2":
        return speech(), {"input_values": torch.randn(3, 400), "labels": torch.tensor([0, 1, 1])}
    tiny = build(model_type, tasks_of(model_type)[0])
    config = with_rates(copy.deepcopy(tiny.model.config))
    for name, value in more.items():
        setattr(config, name, value)
    with seeded(0):
        return type(tiny.model)._from_config(config).train(), tiny.batch_right


def speech():
    config = Wav2Vec2Config(
        vocab_size=20, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, conv_dim=(16, 16), conv_kernel=(10, 3), conv_stride=(5, 2),
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, classifier_proj_size=16,
        mask_time_prob=0.0, num_labels=2,
    )  # fmt: skip
    with seeded(0):
        return Wav2Vec2ForSequenceClassification(with_rates(config)).train()


def falcon(**more):
    sizes = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = FalconConfig(**sizes, hidden_dropout=0.2, attention_dropout=0.15, **more)
    with seeded(0):
        return AutoModelForCausalLM.from_config(config).train()


def loss_of(model, inputs, seed=0):
    with seeded(seed):
        return model(**inputs).loss.detach()


def assert_quiet(model, inputs):
    """A training pass draws nothing and gives the same bits twice."""
    state = torch.get_rng_state()
    one, other = model(**inputs).loss, model(**inputs).loss
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one, other)


def texts(config):
    """Every form in which a config leaves the process."""
    parts = [config.to_dict(), config.to_json_string(), config.to_json_string(use_diff=False)]
    return [*parts, config.to_diff_dict(), pickle.loads(pickle.dumps(config)).to_dict()]


@pytest.mark.parametrize("model_type", TYPES)
def test_a_config_says_the_same_before_and_while_attached(model_type):
    model, _ = made(model_type)
    before, kind = texts(model.config), type(model.config)
    with hiddenkey.attach(model, "hiddenkey-minus"):
        assert type(model.config) is kind
        assert texts(model.config) == before
        assert texts(copy.deepcopy(model.config)) == before
        assert texts(copy.deepcopy(model).config) == before
    assert texts(model.config) == before


@pytest.mark.parametrize(
    ("model_type", "more"),
    [
        *((name, {}) for name in (*READERS, "deberta-v2", "gptj")),
        ("falcon", {"parallel_attn": False, "new_decoder_architecture": False}),
        ("falcon", {"_attn_implementation": "eager"}),
        ("persimmon", {"_attn_implementation": "eager"}),
    ],
)
def test_a_training_pass_draws_nothing_and_the_model_is_as_before(model_type, more):
    model, inputs = made(model_type, **more)
    noisy = [loss_of(model, inputs, seed) for seed in range(3)]
    assert not noisy[0] == noisy[1] == noisy[2]
    before = snapshot(model)
    with hiddenkey.attach(model, PLAIN) as attachment:
        assert_quiet(model, inputs)
        told = model.config.to_json_string()
        attachment.detach()
        assert model.config.to_json_string() == told
    assert snapshot(model) == before
    assert [loss_of(model, inputs, seed) for seed in range(3)] == noisy


@pytest.mark.parametrize("model_type", ["falcon", "persimmon", "wav2vec2", "prophetnet"])
def test_drops_in_attention_and_a_second_pass_go_with_it(model_type):
    """Attention sees its config through a view of its own, and a pass runs inside of another."""
    model, inputs = made(model_type)
    loss_of(model, inputs)  # settles the kind of problem in its config
    before = snapshot(model)
    with hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=RATE)) as attachment:
        assert_noise_of(attachment, model, inputs)
    assert snapshot(model) == before


class OwnForSequenceClassification(BertForSequenceClassification):
    """A model of transformers' kind that reads its config itself."""

    def forward(self, labels=None, **inputs):
        output = super().forward(**inputs)
        logits = functional.dropout(output.logits, self.config.hidden_dropout_prob, self.training)
        loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def test_a_second_pass_inside_of_a_model_s_call_leaves_the_first_silent():
    config = configuration("bert", num_labels=3)
    with seeded(0):
        model, inputs = OwnForSequenceClassification(config).train(), batch()
    with hiddenkey.attach(model, hiddenkey.method("hiddenkey", rate=RATE)) as attachment:
        assert_noise_of(attachment, model, inputs)
        assert model.config is config


def assert_noise_of(attachment, model, inputs):
    """There is noise at the configured rates, and at a rate of zero none."""
    loss_of(model, inputs)
    assert attachment.losses["consistency"] > 0
    attachment.set_rates(dict.fromkeys(attachment.rates, 0.0))
    assert_quiet(model, inputs)
    assert attachment.losses["consistency"] == pytest.approx(0, abs=1e-6)


def test_a_model_that_is_saved_while_attached_trains_with_its_own_dropout(tmp_path):
    model = falcon()
    hiddenkey.attach(model, "hiddenkey")
    loss_of(model, batch("causal"))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).train()
    assert (loaded.config.hidden_dropout, loaded.config.attention_dropout) == (0.2, 0.15)
    assert loaded.transformer.h[0].self_attention.attention_dropout.p == 0.15
    inputs = batch("causal")
    assert loss_of(loaded, inputs, 1) != loss_of(loaded, inputs, 2)


def test_own_dropout_that_is_kept_is_read_from_the_config():
    model, inputs = falcon(), batch("causal")
    noisy = loss_of(model, inputs, 1)
    with hiddenkey.attach(model, DropoutConfig(keep_model_dropout=True)):
        assert loss_of(model, inputs, 1) == noisy


def test_modules_that_share_a_config_are_silent_or_not_each_by_itself():
    one, other = falcon(), falcon()
    for module in other.modules():
        if hasattr(module, "config"):
            module.config = one.config
    inputs = batch("causal")
    noisy = loss_of(other, inputs, 1)
    first = hiddenkey.attach(one, PLAIN)
    assert loss_of(other, inputs, 1) == noisy
    second = hiddenkey.attach(other, PLAIN)
    first.detach()
    assert_quiet(other, inputs)
    second.detach()
    assert loss_of(other, inputs, 1) == noisy == loss_of(one, inputs, 1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_models_that_share_modules_are_detached_in_any_order(order):
    config = configuration("bert")
    models = [BertForSequenceClassification(config), BertForTokenClassification(config)]
    models.append(BertForSequenceClassification(config))
    falcons = [falcon() for _ in range(3)]
    for model, decoder in zip(models[1:], falcons[1:], strict=True):
        model.bert, decoder.transformer = models[0].bert, falcons[0].transformer
    before = [snapshot(model) for model in (*models, *falcons)]
    attachments = [
        (hiddenkey.attach(model.train(), PLAIN), hiddenkey.attach(decoder, PLAIN))
        for model, decoder in zip(models, falcons, strict=True)
    ]
    inputs = batch("causal")
    for done in order:
        assert_quiet(falcons[order[-1]], inputs)
        assert models[0].bert.embeddings.dropout.p == 0
        for attachment in attachments[done]:
            attachment.detach()
    assert models[0].bert.embeddings.dropout.p == 0.1
    assert [snapshot(model) for model in (*models, *falcons)] == before


@pytest.mark.parametrize("way", ["copy", "pickle"])
def test_a_copy_of_an_attached_model_is_silent_on_its_own(way):
    model, inputs = falcon(), batch("causal")
    attachment = hiddenkey.attach(model, PLAIN)
    double = copy.deepcopy(model) if way == "copy" else reloaded(model)
    attachment.detach()
    assert_quiet(double, inputs)
    attachment_of(double).detach()
    assert loss_of(double, inputs, 1) == loss_of(model, inputs, 1)
    assert loss_of(double, inputs, 1) != loss_of(double, inputs, 2)


def reloaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_a_layer_that_is_recomputed_reads_zero_too():
    model, inputs = falcon(), batch("causal")
    hiddenkey.attach(model, DROPKEY)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        with seeded(0):
            model(**inputs).loss.backward()
        found.append({name: grad.clone() for name, grad in gradients(model).items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


@pytest.mark.filterwarnings("ignore")  # of the compiler's own
@pytest.mark.parametrize("kind", ["falcon", "own"])
def test_compiled_code_reads_zero(kind):
    torch._dynamo.reset()
    model, inputs = (falcon(), batch("causal")) if kind == "falcon" else (Own(), batch())
    attachment = hiddenkey.attach(model, PLAIN)
    plain = loss_of(model, inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_quiet(compiled, inputs)
    torch.testing.assert_close(loss_of(compiled, inputs), plain)
    attachment.detach()
    assert loss_of(compiled, inputs, 1) != loss_of(compiled, inputs, 2)
    torch._dynamo.reset()


@dataclasses.dataclass
class Rates:
    dropout: float = RATE
    num_labels: int = 3


@dataclasses.dataclass
class Output:
    loss: torch.Tensor
    logits: torch.Tensor


class Own(nn.Module):
    """A model of one's own, which reads its config itself and is read by whoever saves it."""

    def __init__(self):
        super().__init__()
        self.config = Rates()
        with seeded(0):
            self.encoder = BertForSequenceClassification(configuration("bert", num_labels=3))
        self.interrupts = None

    def forward(self, input_ids, attention_mask, labels):
        output = self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        if self.interrupts is not None:
            raise self.interrupts
        logits = functional.dropout(output.logits, self.config.dropout, self.training)
        return Output(functional.cross_entropy(logits, labels), logits)


class Wrapping(Own):
    """Shows the config of another as its own, so that nothing can be put in its place."""

    @property
    def config(self):
        return self.shown

    @config.setter
    def config(self, config):
        self.shown = config


@pytest.mark.parametrize("interrupts", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_model_shows_its_config_between_its_calls(interrupts):
    model, inputs = Own().train(), batch()
    own, before = model.config, snapshot(model)
    attachment = hiddenkey.attach(model, PLAIN)
    assert model.config is own
    assert_quiet(model, inputs)
    assert model.config is own
    model.interrupts = interrupts
    with pytest.raises(type(interrupts)):
        model(**inputs)
    model.interrupts = None
    assert model.config.num_labels == 3
    assert_quiet(model, inputs)
    attachment.detach()
    assert model.config is own
    assert snapshot(model) == before
    assert loss_of(model, inputs, 1) != loss_of(model, inputs, 2)


def test_a_config_in_whose_place_nothing_can_be_put_is_zero_within_calls_alone():
    model, inputs = Wrapping().train(), batch()
    before = snapshot(model)
    with hiddenkey.attach(model, PLAIN):
        assert model.config.dropout == RATE
        assert_quiet(model, inputs)
        assert model.config.dropout == RATE
        model.interrupts = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            model(**inputs)
        model.interrupts = None
    assert model.config.dropout == RATE
    assert snapshot(model) == before
    assert loss_of(model, inputs, 1) != loss_of(model, inputs, 2)


def test_what_was_switched_off_before_a_fault_comes_back(monkeypatch):
    model = falcon()
    before = snapshot(model)
    monkeypatch.setattr(model_dropout, "SilentRate", None)
    with pytest.raises(TypeError):
        model_dropout.switch_off(model)
    assert snapshot(model) == before


def test_a_model_may_call_itself():
    class Twice(Own):
        def forward(self, input_ids, attention_mask, labels, again=True):
            if again:
                self(input_ids, attention_mask, labels, again=False)
            return super().forward(input_ids, attention_mask, labels)

    model, inputs = Twice().train(), batch()
    own = model.config
    with hiddenkey.attach(model, PLAIN):
        assert_quiet(model, inputs)
        assert model.config is own


def test_a_model_may_be_a_part_of_another():
    model = Own().train()
    alone = hiddenkey.attach(model, PLAIN)
    as_part = model_dropout.switch_off(nn.Sequential(model))
    assert_quiet(model, batch())
    alone.detach()
    assert_quiet(model, batch())
    model_dropout.restore(as_part)
    assert model.config == Rates()


def test_a_rate_that_is_set_in_a_copy_of_a_part_comes_back():
    model = falcon()
    hiddenkey.attach(model, PLAIN)
    attention = copy.deepcopy(model.transformer.h[0].self_attention)
    attention.attention_dropout.p = RATE
    model_dropout.restore(model_dropout.switch_off(attention))
    assert attention.attention_dropout.p == RATE
