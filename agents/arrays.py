"""What changes of many users, as arrays by name: copied into a state and taken out of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np


class StateArrays:
    """Arrays that a state is made of."""

    ARRAYS: ClassVar[tuple[str, ...]]

    def state(self) -> dict[str, np.ndarray[Any, Any]]:
        """Copies of the arrays by name."""
        return {name: getattr(self, name).copy() for name in self.ARRAYS}

    def load_state(self, state: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Takes what :meth:`state` gave."""
        for name in self.ARRAYS:
            setattr(self, name, state[name].copy())
