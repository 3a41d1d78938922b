"""The log of a training as TensorBoard's events."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.errors import MissingDependencyError


class Board:
    """Writes one event file; of iterations that a resumed training repeats, TensorBoard shows the later ones.

    Args:
        folder: Folder of the events.

    Raises:
        MissingDependencyError: If TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if find_spec("tensorboard") is None:
            raise MissingDependencyError("training.tensorboard", "tensorboard", "pip install 'recsim-env[rl]'")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder)

    def add(self, row: Mapping[str, float]) -> None:
        """Adds one row of the log; figures that were not measured are left out."""
        for name, value in row.items():
            if name != "iteration" and not np.isnan(value):
                self._writer.add_scalar(name, value, int(row["iteration"]))
        self._writer.flush()
