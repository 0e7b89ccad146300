"""Which batches are measured, and in which order: neighbouring items, as they come to a device that serves. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

from agent.model_host.inference import Item, by_shape

T = TypeVar("T")
_GOLDEN: Final = (math.sqrt(5) - 1) / 2


def starts(count: int, size: int) -> Iterator[int]:
    """The first items, of `count`, of batches of `size` neighbours; each in turn, without an end.

    Also a part of them is spread over all items (a Weyl sequence). Where `size` divides `count`, batches overlap none
    before all items were in one.
    """
    around = math.gcd(count, size)
    steps = count // around
    step = _coprime_near(steps * _GOLDEN, steps)
    while True:
        for offset in range(around):
            for k in range(steps):
                yield (offset + (k * step % steps) * size) % count


def _coprime_near(value: float, count: int) -> int:
    """The whole number nearest to `value` that has no divisor in common with `count`."""
    candidates = (n for n in range(1, count + 1) if math.gcd(n, count) == 1)
    return min(candidates, key=lambda n: abs(n - value))


class Rotation:
    """Batches of neighbouring items; the strata of a measurement are the numbers of their first items.

    `shares` are the seconds of stage code of each item.
    """

    def __init__(self, items: Sequence[Item], shares: Sequence[float], size: int) -> None:
        self._items, self._shares, self._size = items, shares, size
        sizes = [_elements(item) for item in items]
        self.works = [float(sum(self._of(sizes, first))) for first in range(len(items))]

    @property
    def largest(self) -> int:
        """The batch of most work."""
        return max(range(len(self.works)), key=self.works.__getitem__)

    def starts(self) -> Iterator[int]:
        """The batches in turn, without an end."""
        return starts(len(self._items), self._size)

    def batch(self, first: int) -> list[list[Item]]:
        """The items of a batch, in one group for each of their shapes."""
        batch = self._of(self._items, first)
        return [[batch[i] for i in group] for group in by_shape(batch)]

    def stage_seconds(self, first: int) -> float:
        """What the stage code takes for the items of a batch."""
        return sum(self._of(self._shares, first))

    def _of(self, values: Sequence[T], first: int) -> list[T]:
        return [values[(first + i) % len(values)] for i in range(self._size)]


def _elements(item: Item) -> int:
    return sum(array.size for array in item.inputs.values())
