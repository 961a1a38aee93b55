from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from hiddenkey.lab.tasks import Example
from hiddenkey.lab.tasks.sampling import draw


def examples(labels):
    return tuple(Example((str(index),), label) for index, label in enumerate(labels))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.data(), st.integers(0, 9))
def test_classes_keep_their_shares(labels, data, seed):
    size = data.draw(st.integers(1, len(labels)))
    pool = examples(labels)
    drawn = draw(pool, size, seed, "classification")
    assert len(drawn) == len(set(drawn)) == size
    assert [e for e in pool if e in set(drawn)] == list(drawn), "the original order is kept"
    before = Counter(labels)
    for label, count in Counter(example.label for example in drawn).items():
        assert abs(count - size * before[label] / len(labels)) < 1


def test_seed_decides():
    pool = examples([0, 1] * 50)
    assert draw(pool, 20, 1, "classification") == draw(pool, 20, 1, "classification")
    assert draw(pool, 20, 1, "classification") != draw(pool, 20, 2, "classification")


def test_no_size_means_all():
    pool = examples([0, 1])
    assert draw(pool, None, 0, "classification") == draw(pool, 5, 0, "classification") == pool


def test_scores_are_drawn_without_classes():
    pool = examples([0.5, 1.5, 2.5, 3.5])
    drawn = draw(pool, 2, 0, "regression")
    assert len(set(drawn)) == 2
    assert set(drawn) < set(pool)
