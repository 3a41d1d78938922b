"""How a learning rate falls."""

from __future__ import annotations

import math


def cosine(progress: float, least: float) -> float:
    """Share of the highest rate: 1 at the start, ``least`` from ``progress`` 1 on, a half cosine between."""
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
