"""Noise on an adapter's update, against its equation in float64, and where it is refused."""

import math
from contextlib import contextmanager

import pytest
import torch
from peft import (
    ArrowConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    create_arrow_model,
    get_peft_model,
)
from torch import nn

import hiddenkey
from hiddenkey import AttachError, ConfigError, Drop, DropoutConfig
from hiddenkey.framework.patterns import PATTERNS
from hiddenkey.framework.positions import POSITIONS
from hiddenkey.sequence import site as sequence_site
from hiddenkey.testing import examine_position
from models import assert_same_gradients, batch, gradients, lora_model, plain_model, run, seeded

# PEFT 0.21 asks transformers 5.23 for an attribute by its old name
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
PATTERNS_OF_THE_UPDATE = [p for p in PATTERNS if p not in POSITIONS["update"].refused]
RATE = 0.4
TARGETS = r".*\.(key|value)"


def adapted(*, dora: bool = False, layers: int = 2, dropout: float = 0.0, **settings):
    """A tiny encoder in float64 with random matrices A and B."""
    config = LoraConfig(
        target_modules=TARGETS, r=4, lora_alpha=6, use_dora=dora, lora_dropout=dropout, **settings
    )
    model = plain_model("bert", layers=layers)
    with seeded(3):
        model = get_peft_model(model, config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
            if "magnitude" in name:
                parameter.data *= 1 + 0.2 * torch.rand_like(parameter)
    return model.double().train()


def with_drop(pattern: str, rate: float = RATE, **more) -> DropoutConfig:
    return DropoutConfig((Drop("update", pattern, rate, **more),))


@contextmanager
def recorded(monkeypatch):
    """The masks that are drawn, in their order."""
    masks = []
    draw = sequence_site.draw_sequence

    def remember(*args):
        masks.append(draw(*args))
        return masks[-1]

    with monkeypatch.context() as patch:
        patch.setattr(sequence_site, "draw_sequence", remember)
        yield masks


def key_of(model, layer: int = 0):
    return model.get_submodule(f"base_model.model.bert.encoder.layer.{layer}.attention.self.key")


def seen_by(module):
    """What enters and leaves a module, and the gradient at its output."""
    seen = {}

    def keep(module, args, output):
        seen["x"], seen["y"] = args[0].detach(), output
        output.register_hook(lambda gradient: seen.__setitem__("g", gradient))

    return seen, module.register_forward_hook(keep)


def masks_at(pattern: str, masks, factor: float) -> list:
    """Factors at A's input, at the bottleneck and at B's output."""
    drawn = [mask.double() * factor for mask in masks]
    if pattern == "two-sided":
        return [drawn[0], 1.0, drawn[1]]
    return [1.0, drawn[0], 1.0] if pattern == "rank" else [1.0, 1.0, drawn[0]]


@pytest.mark.parametrize("rescale", ["inverse", "none"])
@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
@pytest.mark.parametrize("pattern", PATTERNS_OF_THE_UPDATE)
def test_output_and_gradients_follow_the_equation(pattern, dora, rescale, monkeypatch):
    """y = c(W·x + s·m_B·B·(m_r·A·(m_A·x))) + b, with c = magnitude/‖W + s·B·A‖ for DoRA."""
    model = adapted(dora=dora)
    key = key_of(model)
    down, up, scale = key.lora_A["default"].weight, key.lora_B["default"].weight, 6 / 4
    base = key.base_layer
    with hiddenkey.attach(model, with_drop(pattern, rescale=rescale)), recorded(monkeypatch) as m:
        seen, handle = seen_by(key)
        run(model, batch()).loss.backward()
        handle.remove()
    factor = 1 / (1 - RATE) if rescale == "inverse" else 1.0
    enters, ranks, leaves = masks_at(pattern, m, factor)
    x, g = seen["x"], seen["g"]
    column = 1.0
    if dora:
        weight = base.weight + scale * up @ down
        column = key.lora_magnitude_vector["default"].weight / weight.norm(dim=1)
        column = column.detach()
    low = ranks * ((enters * x) @ down.T)
    expected = column * (x @ base.weight.T + scale * leaves * (low @ up.T)) + base.bias
    torch.testing.assert_close(seen["y"], expected, rtol=1e-12, atol=1e-12)
    back = scale * leaves * column * g
    torch.testing.assert_close(up.grad, torch.einsum("bto,btr->or", back, low))
    expected = torch.einsum("btr,bti->ri", ranks * (back @ up), enters * x)
    torch.testing.assert_close(down.grad, expected)


@pytest.mark.parametrize("pattern", ["element", "rank", "two-sided", "adapter"])
def test_gradients_equal_finite_differences(pattern):
    model = adapted(layers=1)
    weight = key_of(model).lora_A["default"].weight
    with hiddenkey.attach(model, with_drop(pattern, 0.3)):
        run(model, batch(), seed=2).loss.backward()
        step, change = torch.randn_like(weight), 1e-6
        losses = []
        for sign in (1, -1):
            weight.data += sign * change * step
            losses.append(run(model, batch(), seed=2).loss.item())
            weight.data -= sign * change * step
    slope = (losses[0] - losses[1]) / (2 * change)
    assert slope != 0
    assert (weight.grad * step).sum().item() == pytest.approx(slope, rel=1e-6)


@pytest.mark.parametrize("pattern", ["element", "rank", "two-sided", "adapter"])
def test_the_expectation_is_the_update_itself(pattern):
    model, passes = adapted(layers=1), 400
    key = key_of(model)
    found = []
    with torch.no_grad(), hiddenkey.attach(model, with_drop(pattern, 0.3)):
        handle = key.register_forward_hook(lambda module, args, y: found.append(y))
        for seed in range(passes):
            run(model, batch(size=2, tokens=5), seed=seed)
        model.eval()(**batch(size=2, tokens=5))
        handle.remove()
    *noisy, plain = found
    noisy = torch.stack(noisy)
    error = noisy.std(0) / math.sqrt(passes)
    visible = batch(size=2, tokens=5)["attention_mask"].bool()
    assert (((noisy.mean(0) - plain).abs() / error)[visible] < 5).all()


def test_an_update_that_is_dropped_leaves_the_frozen_path(monkeypatch):
    """All or nothing: half of the passes are the frozen model's, bit by bit."""
    model = adapted(layers=1)
    with torch.no_grad(), model.disable_adapter():
        frozen = model.eval()(**batch()).logits
    model.train()
    with hiddenkey.attach(model, with_drop("adapter", 0.5)):
        equal = [torch.equal(run(model, batch(), seed).logits, frozen) for seed in range(40)]
    assert 8 <= sum(equal) <= 32


def test_the_adapters_of_a_layer_fall_together(monkeypatch):
    """One draw for key and value of a layer and all sequences, another for the next layer."""
    model, outcomes = adapted(), []
    with hiddenkey.attach(model, with_drop("adapter", 0.5)) as attachment:
        for seed in range(30):
            run(model, batch(), seed)
            outcomes.append(attachment.shares())
    for layer in (0, 1):
        assert {o[f"update/{layer}/key"] for o in outcomes} == {0.0, 1.0}
        assert all(o[f"update/{layer}/key"] == o[f"update/{layer}/value"] for o in outcomes)
    assert any(o["update/0/key"] != o["update/1/key"] for o in outcomes)


def test_a_rate_of_its_own_is_drawn_by_itself():
    model = adapted(layers=1)
    with hiddenkey.attach(model, with_drop("adapter", 0.5)) as attachment:
        attachment.set_rates({"update/0/value": 0.0})
        shares = []
        for seed in range(12):
            run(model, batch(), seed)
            shares.append(attachment.shares())
    assert {share["update/0/key"] for share in shares} == {0.0, 1.0}
    assert {share["update/0/value"] for share in shares} == {0.0}


@pytest.mark.parametrize(
    ("pattern", "shape"), [("rank", (4, 1, 4)), ("two-sided", (4, 1, 32)), ("adapter", (1, 1, 1))]
)
def test_units_that_share_a_draw(pattern, shape, monkeypatch):
    model = adapted(layers=1)
    with hiddenkey.attach(model, with_drop(pattern)), recorded(monkeypatch) as masks:
        run(model, batch())
    assert {tuple(mask.shape) for mask in masks} == {shape}
    expected = {"rank": 2, "two-sided": 4, "adapter": 1}
    assert len(masks) == expected[pattern]


def test_padding_is_neither_dropped_nor_counted(monkeypatch):
    model, inputs = adapted(layers=1), batch()
    with hiddenkey.attach(model, with_drop("element")) as at, recorded(monkeypatch) as masks:
        run(model, inputs)
        shares = at.shares()
    visible = inputs["attention_mask"].bool()
    for mask, name in zip(masks, ("key", "value"), strict=True):
        assert mask[~visible].all()
        dropped = (~mask[visible]).double().mean().item()
        assert shares[f"update/0/{name}"] == pytest.approx(dropped, abs=1e-6)


def test_peft_dropout_comes_before(monkeypatch):
    """LoRA's own dropout draws first and is left alone: other inputs, the same rule."""
    model = adapted(layers=1, dropout=0.5)
    with hiddenkey.attach(model, with_drop("two-sided")), recorded(monkeypatch) as masks:
        run(model, batch()).loss.backward()
    assert len(masks) == 4
    assert gradients(model)


@pytest.mark.parametrize("pattern", ["two-sided", "adapter"])
def test_dora_passes_the_conformance_checks(pattern):
    """``tests/testing/test_positions.py`` has LoRA's."""
    model = adapted(dora=True, layers=1)
    report = examine_position("update", model, batch(), pattern=pattern)
    assert report.passed, str(report)


def test_a_language_model_with_every_layer_adapted():
    model = lora_model("llama", "causal", feed_forward=True)
    report = examine_position("update", model, batch("causal"), pattern="rank")
    assert report.passed, str(report)
    assert len(report.sites) == 2 * 5


def test_processes_draw_masks_of_their_own():
    """Seeded alike; ``tests/parallel`` has the processes themselves."""
    model, outcomes = adapted(), {}
    for rank in (0, 0, 1):
        with hiddenkey.attach(model, with_drop("adapter", 0.5), data_parallel_rank=rank) as at:
            shares = []
            for seed in range(12):
                run(model, batch(), seed)
                shares.append(tuple(at.shares().values()))
        outcomes.setdefault(rank, []).append(shares)
    assert outcomes[0][0] == outcomes[0][1] != outcomes[1][0]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("texts", [1, 2])
def test_a_layer_that_runs_again_draws_as_it_did(reentrant, texts):
    """A mask that all of a layer share is no random number less for what draws after it.

    transformers checkpoints a layer's forward alone, so that no hook of the layer runs again; with
    two passes before the backward pass, the last mask is that of the second.
    """
    found = []
    for checkpointing in (False, True):
        model = lora_model("bert", feed_forward=True, lora_dropout=0.3)
        if checkpointing:
            how = {"use_reentrant": reentrant}
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=how)
            model.enable_input_require_grads()
        drops = (Drop("update", "adapter", 0.4), Drop("hidden", "element", 0.3))
        with hiddenkey.attach(model, DropoutConfig(drops)), seeded(2):
            sum(model(**batch(seed=each)).loss for each in range(texts)).backward()
        found.append(gradients(model))
    assert_same_gradients(*found)


class TestAdaptersThatChange:
    def two(self):
        model = adapted(layers=1)
        with seeded(5):
            model.add_adapter("other", LoraConfig(target_modules=TARGETS, init_lora_weights=False))
        return model.double().train()

    def test_the_active_one_is_dropped_whichever_it_is(self, monkeypatch):
        model = self.two()
        with hiddenkey.attach(model, with_drop("rank")), recorded(monkeypatch) as masks:
            for name, rank in (("default", 4), ("other", 8)):
                model.set_adapter(name)
                masks.clear()
                run(model, batch())
                assert {mask.shape[-1] for mask in masks} == {rank}

    def test_all_active_ones_are_dropped(self, monkeypatch):
        model = self.two()
        model.base_model.set_adapter(["default", "other"])
        with hiddenkey.attach(model, with_drop("rank")), recorded(monkeypatch) as masks:
            run(model, batch())
        assert [mask.shape[-1] for mask in masks] == [4, 8, 4, 8]

    def test_one_that_came_after_attach_is_refused(self):
        model = adapted(layers=1)
        with hiddenkey.attach(model, with_drop("rank")):
            model.add_adapter("late", LoraConfig(target_modules=TARGETS))
            run(model, batch())
            model.set_adapter("late")
            with pytest.raises(AttachError, match=r"'late' was added .* attach again"):
                run(model, batch())

    def test_merged_ones_are_refused(self):
        model = adapted(layers=1)
        model.merge_adapter()
        with pytest.raises(AttachError, match=r"merged .* unmerge_adapter"):
            hiddenkey.attach(model, "droplora")
        model.unmerge_adapter()
        with hiddenkey.attach(model, "droplora"):
            run(model, batch())
            model.merge_adapter()
            with pytest.raises(AttachError, match=r"merged .* unmerge_adapter"):
                run(model, batch())

    def test_while_disabled_there_is_nothing_to_drop(self, monkeypatch):
        model = adapted(layers=1)
        with hiddenkey.attach(model, with_drop("rank")), recorded(monkeypatch) as masks:
            run(model, batch())
            masks.clear()
            with model.disable_adapter(), torch.no_grad():
                run(model, batch())
            assert not masks


@pytest.mark.parametrize(("start", "is_told"), [("pissa", True), ("gaussian", False)])
def test_an_adapter_that_holds_pretrained_weights_is_told(start, is_told, caplog):
    """What it drops is then no update, but part of the frozen path."""
    config = LoraConfig(target_modules=TARGETS, init_lora_weights=start)
    with hiddenkey.attach(get_peft_model(plain_model("bert"), config), "droplora"):
        assert ("moved the largest part of the frozen weights" in caplog.text) is is_told


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            (None, "has no LoRA in its layers"),
            (IA3Config(target_modules=["value"], feedforward_modules=[]), r"\(ia3\) without"),
            (PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2), "has no LoRA"),
        ],
    )
    def test_a_model_without_an_update(self, config, reason):
        model = plain_model("bert")
        model = model if config is None else get_peft_model(model, config)
        with pytest.raises(AttachError, match=rf"{reason}.*LoraConfig.*'hiddenkey-minus'"):
            hiddenkey.attach(model, "droplora")

    def test_other_adapted_modules_are_named(self):
        config = LoraConfig(target_modules=r".*(word_embeddings|layer\.1\..*\.key)")
        model = get_peft_model(plain_model("bert"), config)
        with hiddenkey.attach(model, "droplora") as attachment:
            assert [site.layer for site in attachment.sites] == [1]
            gaps = {gap.name: gap.reason for gap in attachment.gaps}
            assert gaps == {
                "bert.encoder.layer.0": "no adapter with an update",
                "bert.embeddings.word_embeddings": "an adapter outside the layers",
            }
            assert "1 of 2 layers (layers without: 0; not in bert.emb" in str(attachment)

    @pytest.mark.parametrize(
        ("targets", "reason"),
        [
            ("convolution", "convolves its update"),
            ("table", "looks its update up"),
            ("attention", "adds its update to the weight itself"),
        ],
    )
    def test_layers_whose_update_is_no_sequence(self, targets, reason):
        model = get_peft_model(OtherModel(), LoraConfig(target_modules=[targets], r=2))
        with pytest.raises(AttachError, match=rf"has no LoRA .*\.{targets} {reason}"):
            hiddenkey.attach(model, "droplora")

    def test_adapters_that_a_router_chooses_for_each_token(self, tmp_path):
        """PEFT's Arrow multiplies by the matrices of all of them at once."""
        config = LoraConfig(target_modules=["value"], r=2, init_lora_weights=False)
        paths = [str(tmp_path / name) for name in ("one", "other")]
        for path in paths:
            get_peft_model(plain_model("bert"), config).save_pretrained(path)
        model = create_arrow_model(
            base_model=plain_model("bert"),
            task_specific_adapter_paths=paths,
            arrow_config=ArrowConfig(top_k=1),
        )
        with pytest.raises(AttachError, match=r"value chooses among adapters .*\(Arrow\)"):
            hiddenkey.attach(model, "droplora")
        model.set_adapter("task_0")  # which is LoRA as any other
        attachment = hiddenkey.attach(model.train(), "droplora")
        run(model, batch())
        assert all(share >= 0 for share in attachment.shares().values())

    @pytest.mark.parametrize("pattern", ["rank", "two-sided"])
    def test_an_adapter_that_goes_past_its_matrix(self, pattern, monkeypatch):
        """As VeLoRA and MonteCLoRA do: half of the noise would be lost."""
        model = OwnModel().train()
        goes_past = lambda self, rows: nn.functional.linear(rows, self.lora_A.weight)  # noqa: E731
        monkeypatch.setattr(Mixture, "down", goes_past)
        told = pytest.raises(AttachError, match=r"without calling it.*use another pattern")
        with hiddenkey.attach(model, with_drop(pattern)), told:
            model(torch.randn(3, 5, 8))
        with hiddenkey.attach(model, with_drop("element")):
            model(torch.randn(3, 5, 8))

    @pytest.mark.parametrize("position", [p for p in POSITIONS if p != "update"])
    @pytest.mark.parametrize("pattern", ["rank", "adapter", "two-sided"])
    def test_patterns_of_the_update_mean_nothing_elsewhere(self, position, pattern):
        with pytest.raises(ConfigError, match="means nothing at position"):
            DropoutConfig((Drop(position, pattern, 0.1),))

    def test_a_rescaling_of_attention(self):
        with pytest.raises(ConfigError, match="use inverse, none"):
            with_drop("rank", rescale="normalised")


class Mixture(nn.Module):
    """A layer whose adapter sees the tokens of all sequences in one row."""

    def __init__(self) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, states):
        rows = states.flatten(0, 1)
        return states + self.lora_B(self.down(rows)).view_as(states)

    def down(self, rows):
        return self.lora_A(rows)


class OwnLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mixture = Mixture()

    def forward(self, states):
        return self.mixture(states + self.attention(states, states, states)[0])


class OwnModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(OwnLayer() for _ in range(2))

    def forward(self, states):
        for layer in self.layers:
            states = layer(states)
        return states


class OtherLayer(nn.Module):
    """Modules that LoRA adapts in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.table = nn.Embedding(4, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, states):
        attended = self.attention(states, states, states)[0]
        return attended + self.convolution(states.mT).mT + self.down(self.up(states))


class OtherModel(OwnModel):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(OtherLayer() for _ in range(2))


def test_matrices_of_ones_own_and_tokens_without_a_sequence(monkeypatch):
    """Modules lora_A and lora_B suffice; rows of unknown sequences share a draw."""
    model = OwnModel().train()
    with hiddenkey.attach(model, "droplora") as attachment, recorded(monkeypatch) as masks:
        model(torch.randn(3, 5, 8)).sum().backward()
        assert [site.name for site in attachment.sites] == ["layers.0.mixture", "layers.1.mixture"]
    assert {tuple(mask.shape) for mask in masks} == {(1, 1, 2)}


def test_keys_of_cross_attention_see_the_encoders_padding(monkeypatch):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=40, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0, dropout_rate=0.0,
    )  # fmt: skip
    targets = r".*EncDecAttention\.(q|k)"
    model = get_peft_model(T5ForConditionalGeneration(config), LoraConfig(target_modules=targets))
    ids = torch.randint(2, 40, (2, 6))
    reads, writes = torch.ones_like(ids), torch.ones_like(ids)  # of one length, padded differently
    reads[0, 3:], writes[1, 4:] = 0, 0
    seen = []
    with hiddenkey.attach(model.train(), with_drop("element")), monkeypatch.context() as patch:
        draw = sequence_site.draw_sequence
        patch.setattr(sequence_site, "draw_sequence", lambda *a: (seen.append(a[3]), draw(*a))[1])
        model(input_ids=ids, attention_mask=reads, labels=ids, decoder_attention_mask=writes)
    query, key = seen
    assert query.equal(writes.bool())
    assert key.equal(reads.bool())
