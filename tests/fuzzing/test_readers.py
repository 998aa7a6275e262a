"""Damaged inputs by the hundred: each is accepted, or refused with a documented error. `tests.benchmarks.fuzz` makes
them by the hundred thousand, and says which input it was: what is found here can be looked at there.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from functaconv.documents import MAX_DEPTH, parse_json
from functaconv.errors import FunctaconvError, ItemError
from tests.fuzzing.targets import TARGETS, Target, cases

pytestmark = [
    # numpy tells of headers that Python 2 wrote, Python of numbers written oddly in them
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::SyntaxWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning"),
]


@pytest.fixture(scope="module", params=TARGETS)
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, Target]]:
    target = TARGETS[request.param]()
    yield request.param, target
    if hasattr(target, "close"):
        target.close()


def survives(target: Target, case: Any) -> bool:
    """Whether the case is accepted; any other than a documented error surfaces."""
    try:
        target.run(case)
    except (FunctaconvError, ItemError):
        return False
    return True


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 30), pytest.param(2, 250, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_what_is_damaged_is_read_or_refused(named: tuple[str, Target], seed: int, count: int) -> None:
    name, target = named
    accepted = 0
    for index, case in cases(target, name, seed, range(count)):
        try:
            accepted += survives(target, case)
        except Exception as error:
            raise AssertionError(f"python -m tests.benchmarks.fuzz --show {name}:{seed}:{index}") from error
    assert 0 < accepted < count, "nothing is damaged, or everything"


@pytest.mark.parametrize("name", ["tar", "binvox", "npz", "base"])
def test_any_bytes_are_refused_in_words(name: str) -> None:
    target = TARGETS[name]()
    wrapped = {"tar": lambda content: (content, False), "npz": lambda content: {"npz": content, "json": content}}

    @settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(some.binary(max_size=2048))
    def refused(content: bytes) -> None:
        survives(target, wrapped.get(name, lambda content: content)(content))

    refused()


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    some.recursive(some.none() | some.integers() | some.text(max_size=5), some.lists, max_leaves=30),
    some.integers(0, 99),
)
def test_json_within_bounds_is_read_as_it_is(value: Any, depth: int) -> None:
    for _ in range(depth):
        value = [value]
    text = json.dumps(value).encode()
    level = _depth(value)
    if level <= MAX_DEPTH:
        assert parse_json(text) == value
    elif level > MAX_DEPTH + 1:
        with pytest.raises(ValueError, match="levels deep"):
            parse_json(text)


def _depth(value: Any) -> int:
    return 1 + max((_depth(inner) for inner in value), default=0) if isinstance(value, list) else 0


@pytest.mark.parametrize(
    "text",
    [b'"\xed\xa0\x80"', b'"\\ud800"', '"\\ud800"'.encode("utf-16"), '{"\\udfff": 1}'.encode("utf-32-le")],
)
def test_half_pairs_are_refused_in_every_encoding(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"utf-8|surrogates|Expecting"):
        parse_json(text)
