from functools import partial

import pytest
from torch.nn import functional as F

from hiddenkey.step.items import uses_items


def ignores(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs, labels)


def divides(outputs, labels, num_items_in_batch=None):
    return F.cross_entropy(outputs, labels, reduction="sum") / num_items_in_batch


def swallows(outputs, labels, **more):
    return F.cross_entropy(outputs, labels)


def hands_on(outputs, *labels, scale=1, **more):
    return scale * divides(outputs, *labels, **more)


def looks_up(outputs, labels, **more):
    return F.cross_entropy(outputs, labels) / more["num_items_in_batch"]


def asks(outputs, labels, **more):
    return F.cross_entropy(outputs, labels) / more.get("num_items_in_batch", 1)


def inside(outputs, labels, num_items_in_batch=None):
    def total():
        return F.cross_entropy(outputs, labels, reduction="sum") / num_items_in_batch

    return total()


class Callable:
    def __call__(self, outputs, labels, num_items_in_batch=None):
        return divides(outputs, labels, num_items_in_batch=num_items_in_batch)


@pytest.mark.parametrize("function", [ignores, swallows, partial(ignores)])
def test_a_mean_does_not_use_the_number_that_it_is_given(function):
    assert not uses_items(function)


@pytest.mark.parametrize(
    "function", [divides, hands_on, looks_up, asks, inside, Callable(), partial(divides), sum]
)
def test_who_reads_the_number_or_hands_it_on_uses_it(function):
    assert uses_items(function)
