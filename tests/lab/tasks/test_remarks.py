"""What is said of examples whose results would mislead."""

from hiddenkey.lab.tasks.base import Example, Splits
from hiddenkey.lab.tasks.remarks import remarks

NAMES = ("a", "b", "c")


def splits(train, evaluation):
    parts = (
        tuple(Example((text,), NAMES.index(label)) for text, label in part.items())
        for part in (train, evaluation)
    )
    return Splits(*parts, NAMES)


def test_nothing_is_said_where_nothing_is_wrong():
    fine = splits({"one": "a", "two": "b", "three": "c"}, {"four": "a", "five": "b"})
    assert remarks(fine, "classification") == ()


def test_evaluation_texts_that_are_trained_on_are_counted():
    leaking = splits(
        {"one": "a", "two b": "b", "three": "c"}, {"Two  B ": "a", "one": "b", "x": "c"}
    )
    assert remarks(leaking, "classification") == (
        "2 of 3 evaluation examples have the text of a training example, so results are better"
        " than on new texts",
    )


def test_a_prompt_is_the_same_with_all_that_was_said_before():
    train = Example(("and then?",), "yes", turns=(("user", "tell me"),))
    other = Example(("and then?",), "no", turns=(("user", "tell us"),))
    assert remarks(Splits((train,), (other,)), "generation") == ()
    assert "1 of 1 evaluation examples" in remarks(Splits((train,), (train,)), "generation")[0]


def test_classes_that_nothing_teaches_are_named():
    lost = splits({"one": "a"}, {"two": "a", "three": "b", "four": "c", "five": "c"})
    assert remarks(lost, "classification") == (
        "2 of 3 classes have evaluation examples and no training example, 'b' for one: 3 of 4"
        " evaluation examples cannot be learnt",
    )


def test_an_evaluation_of_one_class_is_told():
    single = splits({"one": "a", "two": "b"}, {"three": "b", "four": "b"})
    assert remarks(single, "classification") == (
        "all evaluation examples are 'b', so always answering that is right",
    )
