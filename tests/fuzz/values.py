"""What nobody should pass and somebody will: odd values, mutated trees, damaged files."""

from __future__ import annotations

import copy
import math
import os
import traceback
from collections.abc import Callable
from datetime import date
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from hiddenkey.errors import AttachError, ConfigError, ConsistencyError

EXAMPLES = int(os.environ.get("HIDDENKEY_FUZZ", "0"))
"""Inputs for each parser; 0: the short form that runs with all tests."""

REFUSALS = (ConfigError, AttachError, ConsistencyError)
LONGEST_MESSAGE = 20_000


def fuzzed(short: int = 150) -> Callable[[Any], Any]:
    """Settings of a fuzz test: few inputs, always the same ones, or as many as were asked for."""
    return settings(
        max_examples=EXAMPLES or short,
        derandomize=not EXAMPLES,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )


def _objects() -> st.SearchStrategy[Any]:
    return st.sampled_from(
        [
            numpy.float32(0.1), numpy.int64(2), numpy.array([0.1, 0.2]), torch.tensor(0.1),
            torch.tensor([0.1, 0.2]), {1, 2}, frozenset({"key"}), b"key", bytearray(b"x"),
            Fraction(1, 10), date(2026, 1, 2), 1j, Ellipsis, NotImplemented, int, len, object(),
            range(3), slice(1), Path("key"),
        ]
    )  # fmt: skip


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            "",
            " ",
            "\x00",
            "\ud800",
            "key ",
            "KEY",
            "kéy",
            "a\nb",
            "=1+1",
            "../x",
            "[",
            "(",
            "x" * 2000,
        ]
    ),
)
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, 10**400, -(10**400), 1e308, 5e-324, 2**63]),
)


def odd_values(known: tuple[Any, ...] = ()) -> st.SearchStrategy[Any]:
    """Anything: of the known values as often as of others, so that some inputs come far."""
    flat = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, _objects())
    if known:
        flat = st.one_of(st.sampled_from(list(known)), flat)
    return st.recursive(
        flat,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.dictionaries(st.one_of(TEXTS, st.integers(-1, 2), st.none()), inner, max_size=3),
        ),
        max_leaves=5,
    )


def plain_values() -> st.SearchStrategy[Any]:
    """What a JSON or YAML file can hold."""
    flat = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
    return st.recursive(
        flat,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)
        ),
        max_leaves=5,
    )


@st.composite
def mutated(draw: st.DrawFn, tree: Any, times: int = 3) -> Any:
    """A tree of dictionaries and lists with some nodes replaced, removed, renamed or doubled."""
    found = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, times))):
        nodes = list(_nodes(found))
        if not nodes:
            return draw(plain_values())
        parent, key = draw(st.sampled_from(nodes))
        how = draw(st.sampled_from(["replace", "replace", "remove", "rename", "double"]))
        if how == "replace":
            parent[key] = draw(plain_values())
        elif how == "remove":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(TEXTS)] = parent.pop(key) if how == "rename" else parent[key]
        else:
            parent.insert(key, copy.deepcopy(parent[key]))
    return found


def _nodes(tree: Any) -> Any:
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in list(keys):
        yield tree, key
        yield from _nodes(tree[key])


@st.composite
def damaged(draw: st.DrawFn, content: bytes, times: int = 4) -> bytes:
    """A file with some bytes changed, cut, doubled or put in."""
    found = bytearray(content)
    pieces = st.one_of(
        st.binary(max_size=4),
        st.sampled_from(
            [b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"nan", b"NaN", b"-1", b'"', b"'",
             b",", b"\t", b"\r", b"\n", b"{", b"[", b"[[[[[", b": ", b"&a [*a]",
             b"!!python/name:x ", b"1_000", b"0x10", b"9" * 5000,
             b"\xef\xbb\xbf", b"null", b"~", b"=1"]
        ),
    )  # fmt: skip
    for _ in range(draw(st.integers(1, times))):
        start = draw(st.integers(0, len(found)))
        end = draw(
            st.integers(start, min(len(found), start + draw(st.sampled_from([0, 1, 5, 200]))))
        )
        how = draw(st.sampled_from(["replace", "replace", "double", "cut"]))
        if how == "cut":
            del found[start + draw(st.integers(0, 3)) :]
        else:
            found[start:end] = draw(pieces) if how == "replace" else bytes(found[start:end]) * 2
    return bytes(found)


def refusal(function: Callable[..., Any], *given: Any, **named: Any) -> BaseException | None:
    """Call a function; return how it refused, or ``None`` if it took what it was given.

    Any other error than a refusal fails the test, as does one whose message nobody can read.
    """
    try:
        function(*given, **named)
    except REFUSALS as error:
        text = str(error)
        assert text.strip(), "a refusal says why"
        assert len(text) < LONGEST_MESSAGE, f"a message of {len(text)} characters"
        text.encode()
        return error
    except Exception as error:
        shown = "".join(traceback.format_exception(error))[-3000:]
        pytest.fail(f"not a refusal but {type(error).__name__}:\n{shown}", pytrace=False)
    return None
