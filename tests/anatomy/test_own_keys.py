"""What is called attention and has no keys that its queries share: it is named, and does not drop.

Its softmax is over places that each query samples for itself, or over values that a gate weighs.
"""

import pytest
import torch
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    PatchTSMixerConfig,
    PatchTSMixerForPrediction,
    ResNetConfig,
)

import hiddenkey
from hiddenkey import AttachError, DropoutConfig
from hiddenkey.testing import examine_model
from models import seeded

NOISE = hiddenkey.method("hiddenkey-minus", rate=0.3)
SAMPLES = "samples places of its own for each query"
GATE = "is a gate, which weighs values and has no queries"


def detector():
    backbone = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = DeformableDetrConfig(
        **heads,
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_queries=12,
        num_feature_levels=3,
        encoder_n_points=2,
        decoder_n_points=2,
        initializer_range=0.2,
    )
    with seeded(0):
        return DeformableDetrForObjectDetection(config).train()


def forecaster(**settings):
    config = PatchTSMixerConfig(
        context_length=16,
        patch_length=4,
        patch_stride=4,
        num_input_channels=2,
        prediction_length=4,
        d_model=8,
        num_layers=2,
        dropout=0.0,
        head_dropout=0.0,
        **settings,
    )
    with seeded(0):
        return PatchTSMixerForPrediction(config).train()


def names(attachment):
    return [site.name for site in attachment.sites if site.position == "attention_logits"]


def gaps(attachment):
    return {gap.name: gap.reason for gap in attachment.gaps if gap.position == "attention_logits"}


def test_sampled_places_are_no_keys():
    model = detector()
    images = {"pixel_values": torch.randn(2, 3, 64, 64)}
    report = examine_model(model, images, NOISE)
    assert report.passed, report
    attachment = hiddenkey.attach(model, NOISE)
    assert names(attachment) == [f"model.decoder.layers.{layer}.self_attn" for layer in (0, 1)]
    sampling = [f"model.encoder.layers.{layer}.self_attn" for layer in (0, 1)]
    sampling += [f"model.decoder.layers.{layer}.encoder_attn" for layer in (0, 1)]
    assert gaps(attachment) == dict.fromkeys(sampling, f"it {SAMPLES}")
    assert "not in model.encoder.layers.0.self_attn" in attachment.summary()[0]


@pytest.mark.parametrize("pattern", [r".*encoder_attn", r".*(self|encoder)_attn"])
def test_naming_them_is_refused(pattern):
    config = DropoutConfig(NOISE.drops, attention_modules=pattern)
    with pytest.raises(AttachError, match=f"MultiscaleDeformableAttention.*{SAMPLES}"):
        hiddenkey.attach(detector(), config)


def test_a_gate_is_refused_alone_and_named_beside_attention():
    with pytest.raises(AttachError, match=f"gating_block .PatchTSMixerGatedAttention. {GATE}"):
        hiddenkey.attach(forecaster(), NOISE)
    attachment = hiddenkey.attach(forecaster(self_attn=True, self_attn_heads=2), NOISE)
    assert all(name.endswith("self_attn_layer") for name in names(attachment))
    assert len(names(attachment)) == 2
    assert set(gaps(attachment).values()) == {f"it {GATE}"}
    assert len(gaps(attachment)) == 4
    assert hiddenkey.attach(forecaster(), "hiddencut").sites
