"""Random draws that are keyed, not streamed.

A draw is a stateless hash of (seed, purpose, user, day, session, turn, lane). The same user has the same luck in
any batch, after any kill, and under two recommenders: common random numbers. No generator has state, and NumPy's
global one is never touched.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014), applied once to each part of the key and once to each lane. A lane is mostly an item index: luck that
belongs to the item and not to its slot keeps two near policies comparable.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Keys: TypeAlias = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_MASK = 0xFFFFFFFFFFFFFFFF


def _finalise(x: Keys) -> Keys:
    """SplitMix64's finaliser, in place."""
    scratch = x >> _SHIFT_30
    x ^= scratch
    x *= _MULTIPLY_1
    np.right_shift(x, _SHIFT_27, out=scratch)
    x ^= scratch
    x *= _MULTIPLY_2
    np.right_shift(x, _SHIFT_31, out=scratch)
    x ^= scratch
    return x


def _finalise_int(x: int) -> int:
    """The same finaliser for one Python integer."""
    x &= _MASK
    x = ((x ^ (x >> 30)) * int(_MULTIPLY_1)) & _MASK
    x = ((x ^ (x >> 27)) * int(_MULTIPLY_2)) & _MASK
    return x ^ (x >> 31)


def _unsigned(value: Any) -> Keys:
    return np.atleast_1d(np.asarray(value)).astype(np.uint64)


@dataclass(frozen=True, slots=True)
class Draws:
    """Draws of one run.

    Attributes:
        seed: The run's seed, any integer.
    """

    seed: int

    def keys(self, purpose: str, user: Any, day: Any = 0, session: Any = 0, turn: Any = 0) -> Keys:
        """One key per row.

        Args:
            purpose: What the draw is for, such as ``"click"``; two purposes never share luck.
            user: int (N,), row in the population.
            day: int (N,) or one number; so are session and turn.
            session: Number of the session on that day.
            turn: Number of the page in the session.

        Returns:
            uint64 (N,).
        """
        base = _finalise_int(_finalise_int(self.seed * int(_GOLDEN)) + zlib.crc32(purpose.encode()))
        # Day, session and turn are far below 2**20, so one integer holds them without a collision.
        when = (_unsigned(day) << np.uint64(40)) + (_unsigned(session) << np.uint64(20)) + _unsigned(turn)
        x = _unsigned(user) * _GOLDEN
        x += np.uint64(base)
        _finalise(x)
        x = x + when * _GOLDEN
        return _finalise(x)

    @staticmethod
    def bits(keys: Keys, lanes: Any) -> Keys:
        """64 random bits for each key and lane.

        Args:
            keys: uint64 (N,).
            lanes: int (M,), the same lanes for every key, or (N, M); mostly item indices.

        Returns:
            uint64 (N, M).
        """
        x = np.asarray(lanes).astype(np.uint64)
        x += np.uint64(1)
        x *= _GOLDEN
        return _finalise(keys[:, None] + x)

    @staticmethod
    def uniforms(keys: Keys, lanes: Any) -> NDArray[np.float32]:
        """Uniform draws in (0, 1), never 0 or 1, float32 (N, M)."""
        return to_uniform(Draws.bits(keys, lanes) >> np.uint64(32))

    @staticmethod
    def uniform_pairs(keys: Keys, lanes: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Two independent uniform draws for the price of one hash, each float32 (N, M)."""
        bits = Draws.bits(keys, lanes)
        return to_uniform(bits >> np.uint64(32)), to_uniform(bits & np.uint64(0xFFFFFFFF))

    @staticmethod
    def gumbels(keys: Keys, lanes: Any) -> NDArray[np.float32]:
        """Standard Gumbel draws, float32 (N, M); the largest of ``logits + gumbels`` is a soft-max sample."""
        noise = Draws.uniforms(keys, lanes)
        np.log(noise, out=noise)
        np.negative(noise, out=noise)
        np.log(noise, out=noise)
        return np.negative(noise, out=noise)

    @staticmethod
    def normals(keys: Keys, lanes: Any) -> NDArray[np.float32]:
        """Standard normal draws by Box and Muller, float32 (N, M)."""
        first, second = Draws.uniform_pairs(keys, lanes)
        radius = np.sqrt(np.float32(-2.0) * np.log(first))
        return radius * np.cos(np.float32(2.0 * np.pi) * second)

    def uniform(self, purpose: str, user: Any, day: Any = 0, session: Any = 0, turn: Any = 0) -> NDArray[np.float32]:
        """One uniform draw in (0, 1) per row, float32 (N,)."""
        return to_uniform(self.keys(purpose, user, day, session, turn) >> np.uint64(32))

    def permutation(self, purpose: str, n: int) -> NDArray[np.int64]:
        """A random order of ``range(n)``, int64 (n,)."""
        return np.argsort(self.bits(self.keys(purpose, 0), np.arange(n))[0], kind="stable")


def to_uniform(bits: Keys) -> NDArray[np.float32]:
    """32-bit integers (in uint64) to float32 in (0, 1): the middle of one of 2**23 equal cells."""
    cells = (bits >> np.uint64(9)).astype(np.float32)
    cells += np.float32(0.5)
    cells *= np.float32(2.0**-23)
    return cells
