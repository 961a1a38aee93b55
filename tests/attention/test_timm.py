"""Vision models from outside transformers: timm's, and its attention written down here."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hiddenkey
from hiddenkey import AttachError

METHOD = "hiddenkey-minus"
# name, settings, layers with attention
TIMM = [
    ("vit_tiny_patch16_224", {"img_size": 32, "depth": 3, "embed_dim": 32, "num_heads": 4}, 3),
    ("swin_tiny_patch4_window7_224",
     {"img_size": 56, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 16}, 4),
    ("beit_base_patch16_224", {"img_size": 32, "depth": 2, "embed_dim": 32, "num_heads": 4}, 2),
    ("cait_xxs24_224", {"img_size": 32, "depth": 2}, 4),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "layers"), TIMM, ids=[row[0] for row in TIMM])
def test_models_of_timm(name, settings, layers):
    timm = pytest.importorskip("timm")
    model = timm.create_model(name, pretrained=False, num_classes=5, **settings).eval()
    size = settings["img_size"]
    check(model, torch.randn(2, 3, size, size), layers)


class Attention(nn.Module):
    """As timm's: fused where it may be, written out elsewhere."""

    def __init__(self, width, heads, fused):
        super().__init__()
        self.heads, self.fused_attn, self.scale = heads, fused, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, states):
        batch, tokens, width = states.shape
        qkv = self.qkv(states).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        if self.fused_attn:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query * self.scale @ key.transpose(-2, -1)).softmax(dim=-1) @ value
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Block(nn.Module):
    def __init__(self, width, heads, fused):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width), Attention(width, heads, fused)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, states):
        states = states + self.attn(self.norm1(states))
        return states + self.mlp(self.norm2(states))


class VisionTransformer(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 32, 8, 8)
        self.blocks = nn.Sequential(*[Block(32, 4, fused) for _ in range(3)])
        self.head = nn.Linear(32, 5)

    def forward(self, images):
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return self.head(self.blocks(patches).mean(1))


@pytest.mark.parametrize("fused", [False, True])
def test_a_vision_transformer_in_plain_pytorch(fused):
    model = VisionTransformer(fused).eval()
    attachment = check(model, torch.randn(8, 3, 32, 32), 3)
    assert [site.name for site in attachment.sites] == [
        *(f"blocks.{n}.attn" for n in range(3)),
        *(f"blocks.{n}.mlp.2" for n in range(3)),
    ]


def test_both_forms_of_timms_attention_agree():
    outputs = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = VisionTransformer(fused).train()
        hiddenkey.attach(model, hiddenkey.method(METHOD, rate=0.3))
        images = torch.randn(8, 3, 32, 32)
        torch.manual_seed(1)
        outputs.append(model(images))
    torch.testing.assert_close(outputs[0], outputs[1])


def check(model, images, layers):
    expected = model(images)
    attachment = hiddenkey.attach(model, hiddenkey.method(METHOD, rate=0.3))
    reach = [sum(s.position == p for s in attachment.sites) for p in ("attention_logits", "hidden")]
    assert reach == [layers, layers]
    assert {s.kernel for s in attachment.sites if s.position != "hidden"} == {"intercepted"}
    assert torch.equal(model(images), expected)
    model.train()
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(model(images))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-4)
    outputs[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    attachment.detach()
    assert torch.equal(model.eval()(images), expected)
    return attachment


def test_attention_over_features_is_refused():
    class XCA(Attention):
        """Cross-covariance attention weighs features, whose map is as square as that of keys."""

    model = VisionTransformer(False)
    for block in model.blocks:
        block.attn = XCA(32, 4, False)
    with pytest.raises(AttachError, match=r"blocks.0.attn \(XCA\) weighs features against each"):
        hiddenkey.attach(model, METHOD)
