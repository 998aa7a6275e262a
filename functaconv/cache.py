"""A cache of bounded size."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Value = TypeVar("Value")


@dataclass
class Cache(Generic[Value]):
    """Values by key; when one more would exceed the limits, all others are dropped."""

    most_size: int
    """of all values together"""
    most_values: int | None = None
    values: dict[Hashable, Value] = field(default_factory=dict)
    size: int = 0

    def get(self, key: Hashable, size: int, make: Callable[[], Value]) -> Value:
        """The value under a key, made when it is not there; `size` is in units of the caller's choice."""
        if key not in self.values:
            if self.size + size > self.most_size or len(self.values) == self.most_values:
                self.clear()
            self.values[key] = make()
            self.size += size
        return self.values[key]

    def clear(self) -> None:
        self.values.clear()
        self.size = 0
