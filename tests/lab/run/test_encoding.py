"""Conversations as token ids, by a chat template or by the plain form."""

import pytest

from hiddenkey import ConfigError
from hiddenkey.lab.run.encoding import encode, prompt_of
from hiddenkey.lab.tasks.chats import conversation

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "w1 {{ m.content }} w2 {% endfor %}{% if add_generation_prompt %}w1 {% endif %}"
)
EXAMPLE = conversation([("user", "ant"), ("assistant", "bee"), ("user", "ant")], "cat")


@pytest.fixture
def tokenizer(tiny_tokenizer):
    tiny_tokenizer.bos_token = "[CLS]"
    tiny_tokenizer.eos_token = "w9"
    return tiny_tokenizer


def words(tokenizer, ids):
    return " ".join(tokenizer.convert_ids_to_tokens(ids))


def test_a_template_writes_the_prompt_and_ends_the_answer(tokenizer):
    tokenizer.chat_template = TEMPLATE
    (row,) = encode([EXAMPLE], tokenizer, 32, "generation")
    target = [token for token in row["labels"] if token != -100]
    assert words(tokenizer, target) == "cat w2 w9"
    # the tokenizer puts [CLS] before each text, so that the template's own is left out
    prompt = row["input_ids"][: -len(target)]
    assert words(tokenizer, prompt) == "[CLS] w1 ant w2 w1 bee w2 w1 ant w2 w1 [SEP]"
    assert prompt == tokenizer(prompt_of(EXAMPLE, tokenizer))["input_ids"]


def test_an_end_that_the_template_writes_is_not_written_twice(tokenizer):
    tokenizer.chat_template = TEMPLATE.replace("w2", "w9")
    (row,) = encode([EXAMPLE], tokenizer, 32, "generation")
    assert words(tokenizer, [t for t in row["labels"] if t != -100]) == "cat w9"


def test_without_a_template_the_plain_form_is_the_prompt(tokenizer):
    assert tokenizer.chat_template is None
    plain = "User: ant\nAssistant: bee\nUser: ant\nAssistant:"
    assert prompt_of(EXAMPLE, tokenizer) == EXAMPLE.texts[0] == plain
    (row,) = encode([EXAMPLE], tokenizer, 32, "generation")
    assert words(tokenizer, [t for t in row["labels"] if t != -100]) == "cat w9"


def test_what_a_template_refuses_is_refused(tokenizer):
    tokenizer.chat_template = TEMPLATE
    example = conversation([("system", "bee"), ("user", "ant")], "cat")
    with pytest.raises(ConfigError, match=r"got turns of system, user \(no system here\); change"):
        encode([example], tokenizer, 32, "generation")
