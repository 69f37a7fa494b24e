"""What was used last, kept within a bound of bytes and one of number."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """Values by key; those used longest ago make room.

    Args:
        max_bytes: of all values together; 0 keeps nothing.
        most: values, however small: memory that only grows can't be told from a leak.
        bytes_of: what one value takes; always the same of the same value.

    Attributes:
        nbytes: of all values.
    """

    def __init__(self, max_bytes: int, most: int, bytes_of: Callable[[Value], int]) -> None:
        self._max_bytes, self._most, self._bytes_of = max_bytes, most, bytes_of
        self._kept: OrderedDict[Key, Value] = OrderedDict()  # the one used longest ago first
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Key) -> Value | None:
        """None: it is not kept."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, in place of what had its key. One that is larger than all may be is not kept."""
        self._drop(key)
        if self._bytes_of(value) > self._max_bytes:
            return
        self._kept[key] = value
        self.nbytes += self._bytes_of(value)
        while self.nbytes > self._max_bytes or len(self._kept) > self._most:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all of them."""
        self._kept.clear()
        self.nbytes = 0

    def _drop(self, key: Key) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self.nbytes -= self._bytes_of(dropped)
