"""The order, the proposals and the span one value at a time in plain integers: what the arrays are checked against."""

from __future__ import annotations

import math

from costar.core.hashing import keyed_hash
from costar.insertion.placement import POSITION_SALT, SPACING_SALT, STRIDE_SALT, WALK, WALK_SALT

MASK = (1 << 64) - 1


def mix(a: int, b: int) -> int:
    z = (a + b * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) & MASK
    for _ in range(2):
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        z ^= z >> 31
    return z


def sequence_at(seed: int, draw: int, size: int, slot: int) -> int:
    """The base sequence that is read at a slot."""
    epoch, value = divmod(slot, size)
    bits = max(2, (size - 1).bit_length())
    low_bits = bits // 2
    keys = [keyed_hash(seed, draw, "order", epoch, number) for number in range(8)]
    while True:
        high, low = value >> low_bits, value & ((1 << low_bits) - 1)
        for number, key in enumerate(keys):
            if number % 2:
                low ^= (mix(high, 0) ^ mix((high + key) & MASK, 1)) & ((1 << low_bits) - 1)
            else:
                high ^= (mix(low, 0) ^ mix((low + key) & MASK, 1)) & ((1 << (bits - low_bits)) - 1)
        value = (high << low_bits) | low
        if value < size:
            return value


def first_proposal(key: int, record_hash: int, copy: int, spacing: str) -> int:
    """The uint64 behind the first proposal of a copy."""
    if spacing == "even":
        return (mix(record_hash, SPACING_SALT) + copy * 0x9E3779B97F4A7C15) & MASK
    if spacing == "burst":
        centre = mix(record_hash, SPACING_SALT)
        return centre - (centre >> 5) + (mix(key, 0) >> 5)
    return mix(key, 0)


def proposal(key: int, first: int, lo: int, hi: int, attempt: int) -> int:
    """The slot that a copy proposes at an attempt."""
    width = hi - lo
    if attempt == 0:
        return lo + (first * width >> 64)
    if attempt < WALK:
        return lo + (mix(key, attempt) * width >> 64)
    start = mix(key, WALK_SALT) * width >> 64
    stride = mix(key, STRIDE_SALT) * width >> 64
    while math.gcd(stride, width) != 1:
        stride = (stride + 1) % width
    return lo + (start + (attempt - WALK) % width * stride) % width


def position_target(key: int, room: int, position: str) -> int:
    """The position target in [1, room]."""
    if position != "balanced":
        return {"start": 1, "middle": (room + 1) // 2, "end": room}[position]
    return 1 + (mix(key, POSITION_SALT) * room >> 64)


def span(window: list[int], length: int, target: int, eos: int) -> tuple[int, int, int, bool]:
    """(begin, start, displaced, at_boundary) of a record of `length` tokens in a base sequence."""
    last = len(window) - 1 - 1 - length
    boundaries = [q for q in range(1, last + 1) if window[q - 1] == eos]
    if boundaries:
        begin = min(boundaries, key=lambda q: (abs(q - target), q))
        return begin, begin, length + 1, True
    begin = min(max(target - 1, 1), last - 1)
    return begin, begin + 1, length + 2, False
