"""Arrays of masks: counting their bits, and packing 0/1 actions into them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gymnasium.error import InvalidAction

__all__ = ["CHUNK", "MaskBatch", "pack_masks", "popcount"]

MaskBatch: TypeAlias = npt.NDArray[np.int64]
"""Masks of shape (N,)."""

CHUNK = 8_192
"""Masks worked on at a time, so that the intermediate arrays stay in the processor's cache."""

_WORD = np.dtype("<u4")

_GATHER = np.uint32(1 << 28 | 1 << 21 | 1 << 14 | 1 << 7)
"""Multiplying four 0/1 bytes by it puts their bits side by side at bit 28; nothing carries."""

_TOP = np.uint32(28)
_NOT_BINARY = 0xFEFEFEFE
"""The bits that four 0/1 bytes do not have."""

_POWERS_OF_16 = np.array([16**i for i in range(6)], np.float32)


def popcount(masks: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """Number of set bits of each mask; the shape stays."""
    values = np.asarray(masks, np.int64)
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(values).astype(np.intp)
    bits = ((values >> np.int64(b)) & 1 for b in range(63))
    return sum(bits, np.zeros_like(values)).astype(np.intp)


def pack_masks(bits_NC: npt.NDArray[Any], width: int | None = None) -> MaskBatch:
    """Rows of 0/1 entries as masks.

    Args:
        bits_NC: Numbers or booleans of shape (N, C), C at most 62; column c is bit c.
        width: The C that is expected, if it is known.

    Returns:
        int64 masks of shape (N,).

    Raises:
        InvalidAction: If the shape is wrong or an entry is neither 0 nor 1.
    """
    bits = np.asarray(bits_NC)
    if bits.ndim != 2 or (width is not None and bits.shape[1] != width):
        raise InvalidAction(
            f"actions must have shape (N, {width or 'C'}), one 0/1 entry a category; "
            f"got {bits.shape}"
        )
    if len(bits) <= CHUNK:
        return _pack(_as_bytes(bits))
    masks = np.empty(len(bits), np.int64)
    for start in range(0, len(bits), CHUNK):
        piece = slice(start, start + CHUNK)
        masks[piece] = _pack(_as_bytes(bits[piece]))
    return masks


def _as_bytes(bits_NC: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The same entries as contiguous bytes, a multiple of four in a row; what is added is 0."""
    if bits_NC.dtype.itemsize == 1 and bits_NC.dtype.kind in "biu":
        narrow = bits_NC.view(np.uint8)
    else:
        narrow = (bits_NC == 1).view(np.uint8)
        if not np.array_equal(narrow, bits_NC):
            raise _not_binary()
    count, width = narrow.shape
    if width % 4 == 0 and narrow.flags.c_contiguous:
        return narrow
    padded = np.zeros((count, -(-width // 4) * 4), np.uint8)
    padded[:, :width] = narrow
    return padded


def _not_binary() -> InvalidAction:
    return InvalidAction("every entry of a binary action must be 0 or 1")


def _pack(bits_NC: npt.NDArray[np.uint8]) -> MaskBatch:
    """Bytes to masks by way of digits to base 16, four columns at a time.

    A dot product of digits with powers of 16 is exact in float32 up to 24 columns and twice as
    fast as shifts and ors of strided columns; wider rows take those.
    """
    words = bits_NC.reshape(-1).view(_WORD)
    if int(np.bitwise_or.reduce(words)) & _NOT_BINARY:
        raise _not_binary()
    digits = words * _GATHER
    digits >>= _TOP
    groups = bits_NC.shape[1] // 4
    if groups <= len(_POWERS_OF_16):
        exact = digits.astype(np.float32).reshape(-1, groups)
        return exact.dot(_POWERS_OF_16[:groups]).astype(np.int64)
    masks = np.zeros(len(bits_NC), np.int64)
    for group in range(groups):
        masks |= digits[group::groups].astype(np.int64) << np.int64(4 * group)
    return masks
