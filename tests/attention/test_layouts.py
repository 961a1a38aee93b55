"""Attention within blocks: real modules against dense attention in which the same keys fell."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BigBirdConfig,
    BigBirdForSequenceClassification,
    BigBirdPegasusConfig,
    BigBirdPegasusForConditionalGeneration,
)

from block_families import (
    BATCH,
    FAMILIES,
    HEADS,
    WIDTH,
    BigBird,
    Family,
    LongT5Global,
)
from hiddenkey import AttachError, Drop, DropoutConfig
from hiddenkey.attention import intercept, layouts, reference, site
from hiddenkey.attention.blocks import BlockDraws, spread, visible_keys
from hiddenkey.attention.layouts import NO_KEY, Call, Layout, Layouts
from hiddenkey.measure import ShareCounter
from hiddenkey.testing import examine_model

PADDINGS = ("none", "right", "left")
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # in float32, the only dtype that Longformer trains in
CASES = [
    pytest.param(family, length, padding, id=f"{family.__name__}-{length}-{padding}")
    for family in FAMILIES
    for length in family.lengths
    for padding in PADDINGS
]


def made(family: type[Family], length: int, padding: str) -> tuple[Family, Tensor, Tensor]:
    torch.manual_seed(0)
    states = torch.randn(BATCH, length, WIDTH)
    visible = torch.ones(BATCH, length, dtype=torch.bool)
    if padding != "none":
        visible[0, -(length // 3) :] = False
    return family(), states, visible.flip(-1) if padding == "left" else visible


def make_site(drops: dict[str, Drop], **switches: Any) -> site.AttentionSite:
    return site.AttentionSite(
        logits=drops.get("logits"),
        weights=drops.get("weights"),
        config=DropoutConfig(drops=tuple(drops.values()), **switches),
        kind="self",
        is_fused=False,
        is_intercepted=True,
        counting=lambda: True,
        counters={drop.position: ShareCounter() for drop in drops.values()},
    )


LOGITS = Drop("attention_logits", "column", 0.6)
WEIGHTS = Drop("attention_weights", "column", 0.6)
DROPS = {
    "DropKey": {"logits": LOGITS},
    "DropKey by spans": {"logits": dataclasses.replace(LOGITS, pattern="span")},
    "DropAttention": {"weights": WEIGHTS},
    "DropAttention, inverse": {"weights": dataclasses.replace(WEIGHTS, rescale="inverse")},
    "both": {"logits": LOGITS, "weights": WEIGHTS},
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """What is drawn: the visible keys and the keep mask of each draw."""
    draws: list[tuple[Tensor, Tensor]] = []

    def draw_keys(pattern: str, rate: float, keys: Any, heads: int, **switches: Any) -> Tensor:
        assert switches["protect_first"] is False
        keep = original(pattern, rate, keys, heads, **switches)
        draws.append((keys.visible, keep))
        return keep

    original = site.draw_keys
    monkeypatch.setattr(site, "draw_keys", draw_keys)
    return draws


def attend(keeps: dict[str, Tensor], weights: Drop | None, *states: Tensor, **more: Any) -> Tensor:
    columns = more.pop("columns", lambda keep: keep.unsqueeze(-2))
    return reference.attention(
        *states,
        **more,
        **{name: columns(keep) for name, keep in keeps.items()},
        rate=weights.rate if weights else 0.0,
        rescaling=weights.rescaling if weights else "none",
    )


def gradients(output: Tensor, family: Family, states: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    inputs = [states, *family.module.parameters()]
    return torch.autograd.grad(output, inputs, torch.randn(output.shape), materialize_grads=True)


def run_with(
    case: Family, states: Tensor, visible: Tensor, attention: site.AttentionSite
) -> Tensor:
    handles = intercept.intercept(case.module, attention)
    try:
        return case.run(states, visible)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", DROPS)
@pytest.mark.parametrize(("family", "length", "padding"), CASES)
def test_the_same_keys_fall_as_in_dense_attention(family, length, padding, name, drawn):
    case, states, visible = made(family, length, padding)
    states.requires_grad_()
    drops = DROPS[name]
    found = run_with(case, states, visible, make_site(drops))
    assert len(drawn) == len(drops)  # however many softmaxes the module calls
    for seen, _ in drawn:
        assert seen.equal(case.keys_of(visible))
    keeps = {f"{key}_keep": keep for key, (_, keep) in zip(drops, drawn, strict=True)}
    assert not all(keep.all() for keep in keeps.values())
    expected = case.dense(states, visible, partial(attend, keeps, drops.get("weights")))
    torch.testing.assert_close(found, expected, **TOLERANCE)
    pairs = zip(gradients(found, case, states), gradients(expected, case, states), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_may_share_their_draw(family, drawn):
    case, states, visible = made(family, family.lengths[-1], "right")
    drops = {"logits": LOGITS}
    found = run_with(case, states, visible, make_site(drops, share_heads=True))
    ((_, keep),) = drawn
    assert keep.equal(keep[:, :1].expand(-1, HEADS, -1))
    expected = case.dense(states, visible, partial(attend, {"logits_keep": keep}, None))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("token", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_that_fell_is_seen_by_no_query(family, token, monkeypatch):
    """Token 1 has global attention in Longformer, token 2 has not."""
    case, states, visible = made(family, family.lengths[-1], "none")
    keys = case.keys_of(visible).shape[1]
    keep = torch.ones(BATCH, HEADS, keys, dtype=torch.bool)
    monkeypatch.setattr(site, "draw_keys", lambda *_, **__: keep)

    def outputs() -> tuple[Tensor, Tensor]:
        before = run_with(case, states, visible, make_site({"logits": LOGITS}))
        with case.other_states(token, keys - family.other_keys):
            return before, run_with(case, states, visible, make_site({"logits": LOGITS}))

    assert not torch.equal(*outputs())
    keep[..., family.other_keys + token] = False
    assert torch.equal(*outputs())


@pytest.mark.parametrize("family", FAMILIES)
def test_entries_fall_by_themselves(family, monkeypatch):
    case, states, visible = made(family, family.lengths[-1], "right")
    kept: list[tuple[Tensor, Tensor]] = []

    def dropkey(logits: Tensor, keep: Tensor) -> Tensor:
        kept.append((logits > intercept.HIDDEN_BELOW, keep.expand(logits.shape)))
        return original(logits, keep)

    original = reference.dropkey
    monkeypatch.setattr(reference, "dropkey", dropkey)
    attention = make_site({"logits": Drop("attention_logits", "element", 0.3)})
    for _ in range(10):
        assert run_with(case, states, visible, attention).isfinite().all()
    assert all(keep[~seen].all() for seen, keep in kept)
    assert all((keep & seen).any(-1).equal(seen.any(-1)) for seen, keep in kept)
    if family is LongT5Global:  # sums over blocks are no entries of a key
        assert all(keep[..., 12:].all() for _, keep in kept)
        kept = [(seen[..., :12], keep[..., :12]) for seen, keep in kept]
    entries = sum(int(seen.sum()) for seen, _ in kept)
    fallen = sum(int((seen & ~keep).sum()) for seen, keep in kept) / entries
    chance = 4 * (0.21 / entries) ** 0.5
    rescued = 0.3**3  # of the queries that see three keys only, all are given back
    assert 0.3 - rescued - chance < fallen < 0.3 + chance
    assert abs(attention.counters["attention_logits"].read() - 0.3) < chance


BIG_BIRD = BigBirdConfig(
    hidden_size=WIDTH,
    intermediate_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    initializer_range=0.3,
    vocab_size=40,
    block_size=1,
    num_random_blocks=3,
    max_position_embeddings=32,
)
BIG_BIRD_PEGASUS = BigBirdPegasusConfig(
    d_model=WIDTH,
    encoder_ffn_dim=WIDTH,
    decoder_ffn_dim=WIDTH,
    encoder_layers=2,
    decoder_layers=1,
    encoder_attention_heads=HEADS,
    decoder_attention_heads=HEADS,
    init_std=0.3,
    vocab_size=40,
    block_size=1,
    num_random_blocks=3,
    max_position_embeddings=32,
)


@pytest.mark.parametrize(
    ("model", "config", "labels"),
    [
        (BigBirdForSequenceClassification, BIG_BIRD, (3,)),
        (BigBirdPegasusForConditionalGeneration, BIG_BIRD_PEGASUS, (3, 5)),
    ],
)
def test_whole_models_whose_blocks_are_drawn(model, config, labels):
    """These need so many blocks that a sweep over all types takes their ordinary attention."""
    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(4, 40, (3, 16)), "labels": torch.randint(0, 2, labels)}
    report = examine_model(model(config), batch, "dropkey")
    assert report.passed, report


def test_a_layout_that_is_not_known_is_refused(monkeypatch):
    case, states, visible = made(BigBird, 20, "none")
    monkeypatch.setattr(BlockDraws, "see_gather", lambda *_, **__: None)
    with pytest.raises(
        AttachError, match="softmax 2 of BigBirdBlockSparseAttention is over logits"
    ):
        run_with(case, states, visible, make_site({"logits": LOGITS}))


@pytest.mark.parametrize(
    ("keys", "heads_axis"),
    [
        ((1, 1, 1, 8), 1),
        ((1, 1, 5, 7), 1),
        ((1, 1, 5, 7), 2),
        ((1, 1, 1, 7), 0),
        ((1, 1, 1, 1, 7), 1),
    ],
    ids=["columns", "queries", "heads", "folded", "axes"],
)
def test_logits_of_another_shape_are_refused(keys, heads_axis):
    layout = Layout(torch.zeros(keys, dtype=torch.long), heads_axis)
    draws = BlockDraws(
        make_site({"logits": LOGITS}), Call(None, {}), lambda call: Layouts(7, HEADS, (layout,))
    )
    with pytest.raises(AttachError, match="is not the layout of blocks that is known of it"):
        draws.next_draw(torch.zeros(BATCH, HEADS, 6, 7))


def test_every_class_in_the_table_is_one_of_transformers():
    assert {type(family().module).__name__ for family in FAMILIES} == set(layouts._LAYOUTS)


@pytest.mark.parametrize("tokens", [1, 4, 9])
@pytest.mark.parametrize("block", [1, 3, 4])
def test_neighbours(tokens, block):
    found = layouts.neighbours(tokens, block, torch.device("cpu"))
    for number, row in enumerate(found.tolist()):
        around = range((number - 1) * block, (number + 2) * block)
        assert row == [token if 0 <= token < tokens else NO_KEY for token in around]
    assert (len(found) - 1) * block < tokens <= len(found) * block


@pytest.mark.parametrize(("tokens", "reach"), [(1, 1), (6, 2), (4, 9)])
def test_band(tokens, reach):
    for query, row in enumerate(layouts.band(tokens, reach, torch.device("cpu")).tolist()):
        around = range(query - reach, query + reach + 1)
        assert row == [token if 0 <= token < tokens else NO_KEY for token in around]


def test_chosen():
    found = layouts.chosen(torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]).bool())
    assert found.tolist() == [[1, 3], [NO_KEY, NO_KEY], [2, NO_KEY]]


def test_of_blocks():
    assert layouts.of_blocks(torch.tensor([[2, 0]]), 3).tolist() == [[6, 7, 8, 0, 1, 2]]


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 7), (1, 1, 4, 7), (2, 1, 4, 7), (2, 3, 4, 7), (1, 3, 2, 1, 7)]
)
def test_masks_by_key_and_by_column(shape):
    torch.manual_seed(0)
    keys = torch.randint(-1, 5, shape)
    keep = torch.rand(2, 3, 5) > 0.5
    columns = spread(keep, keys)
    axes = (2, 3, *((2, 4) if len(shape) == 5 else (4,)), 7)
    visible = torch.rand(axes) > 0.9
    seen = torch.zeros(2, 5, dtype=torch.bool)
    for place in torch.cartesian_prod(*(torch.arange(size) for size in axes)).tolist():
        key = int(keys.expand(axes)[tuple(place)])
        expected = key == NO_KEY or keep[place[0], place[1], key]
        assert columns.expand(axes)[tuple(place)] == expected
        if key != NO_KEY and visible[tuple(place)]:
            seen[place[0], key] = True
    assert visible_keys(visible, keys, 5).equal(seen)
