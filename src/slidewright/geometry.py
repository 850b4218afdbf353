"""Sizes and regions as values, so that no function juggles (height, width) and (width, height)."""

from __future__ import annotations

import math
from typing import NamedTuple


class Size(NamedTuple):
    """Height and width in pixels."""

    height: int
    width: int

    def halved(self, times: int = 1) -> Size:
        """The size `times` levels further up a pyramid: floor division by 2, never below 1."""
        return Size(max(1, self.height >> times), max(1, self.width >> times))

    def grid(self, cell: int) -> Size:
        """How many cells of `cell` x `cell` cover this size, as (rows, columns)."""
        return Size(-(-self.height // cell), -(-self.width // cell))

    def __str__(self) -> str:
        return f"{self.width} x {self.height}"


class Stack(NamedTuple):
    """How many times and how many planes along z an image has. A *frame* is all channels of one of them; frames are
    numbered time by time, each from the first z to the last.
    """

    t: int = 1
    z: int = 1

    @property
    def frames(self) -> int:
        """Number of frames."""
        return self.t * self.z

    def __str__(self) -> str:
        parts = (f"{self.z} planes along z" if self.z > 1 else "", f"{self.t} times" if self.t > 1 else "")
        return " at ".join(part for part in parts if part) or "a single plane"


SINGLE = Stack()
"""What is no stack."""


class Region(NamedTuple):
    """A rectangle of pixels: top left corner and extent."""

    y: int
    x: int
    height: int
    width: int

    @property
    def empty(self) -> bool:
        """Whether there is no pixel in it."""
        return self.height <= 0 or self.width <= 0

    def clipped(self, size: Size) -> Region:
        """The part inside an image of `size`; its extent may be zero, never negative."""
        return Region(
            self.y,
            self.x,
            max(0, min(self.height, size.height - self.y)),
            max(0, min(self.width, size.width - self.x)),
        )

    def __str__(self) -> str:
        return f"{self.width} x {self.height} pixels at x={self.x}, y={self.y}"


def reduction(whole: int, part: int) -> float:
    """How many pixels of a side one of a level's stands for: a power of two, or another whole number, where the level
    is as long as that makes it, rounded down or up.
    """
    ratio = whole / part
    for times in (1 << int(math.log2(ratio)), round(ratio)) if ratio > 1 else ():
        if part in (whole // times, -(-whole // times)):
            return times
    return ratio


def halvings(first: Size, size: Size) -> int:
    """How many times `first` must be halved to come nearest to `size`."""
    longest, other = max(first), first.index(max(first))
    times = 0
    while longest >> (times + 1) and abs((longest >> (times + 1)) - size[other]) <= abs(
        (longest >> times) - size[other]
    ):
        times += 1
    return times
