"""Two models that share layers: one of them can drop at a time."""

import pytest

import hiddenkey
from hiddenkey import AttachError
from hiddenkey.attachment import attachment_of
from models import batch, plain_model, step


def two_heads_on_one_base():
    first, second = plain_model("bert", "classification"), plain_model("bert", "classification")
    second.bert = first.bert
    return first, second


@pytest.mark.parametrize("method", ["hiddenkey-minus", "hiddencut-element", "dropkey"])
def test_a_second_configuration_on_the_same_layers_is_refused(method):
    first, second = two_heads_on_one_base()
    attachment = hiddenkey.attach(first, method)
    with pytest.raises(AttachError, match=r"layer\.0\.\S+ drops already, through BertForSequence"):
        hiddenkey.attach(second, method)
    with pytest.raises(AttachError, match="shares it"):
        hiddenkey.attach(first.bert, method)
    step(first, batch("classification"))
    assert all(share > 0 for share in attachment.shares().values())


def test_a_model_may_take_them_over_once_the_other_is_detached():
    first, second = two_heads_on_one_base()
    plain = {name: type(module.__dict__.get("config")) for name, module in first.named_modules()}
    hiddenkey.attach(first, "hiddenkey-minus").detach()
    with hiddenkey.attach(second, "hiddenkey-minus") as attachment:
        step(second, batch("classification"))
        assert all(share > 0 for share in attachment.shares().values())
    after = {name: type(module.__dict__.get("config")) for name, module in first.named_modules()}
    assert after == plain


def test_a_refusal_leaves_the_model_its_own_configuration():
    first, second = two_heads_on_one_base()
    second.bert = plain_model("bert", "classification").bert
    kept = hiddenkey.attach(second, "hiddenkey-minus")
    hiddenkey.attach(first, "hiddenkey-minus")
    second.bert.encoder.layer[1] = first.bert.encoder.layer[1]
    with pytest.raises(AttachError, match=r"layer\.1\.\S+ drops already"):
        hiddenkey.attach(second, "hiddenkey")
    assert attachment_of(second) is kept
