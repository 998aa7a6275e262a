"""What is kept is bounded in size and number, and made once."""

import pytest

from functaconv.cache import Cache


def test_a_value_is_made_once_and_kept() -> None:
    cache, made = Cache[str](100), list[str]()
    for key in ("a", "b", "a", "b", "a"):
        assert cache.get(key, 10, lambda key=key: (made.append(key), key.upper())[1]) == key.upper()
    assert (made, cache.size) == (["a", "b"], 20)


@pytest.mark.parametrize(("most_size", "most_values", "kept"), [(500, None, 4), (10_000, 3, 3), (500, 2, 2)])
def test_what_has_no_room_takes_the_place_of_all_others(most_size: int, most_values: int | None, kept: int) -> None:
    cache, most = Cache[int](most_size, most_values), 0
    for key in range(20):
        assert cache.get(key, 120, lambda key=key: key * key) == key * key
        assert key in cache.values
        assert cache.size == 120 * len(cache.values) <= most_size
        most = max(most, len(cache.values))
    assert most == kept


def test_a_value_that_is_larger_than_the_limit_is_kept_alone() -> None:
    cache = Cache[int](100)
    cache.get("small", 10, lambda: 1)
    assert cache.get("large", 1000, lambda: 2) == 2
    assert list(cache.values) == ["large"]
    cache.get("next", 10, lambda: 3)
    assert list(cache.values) == ["next"]
