"""Training in parts: what is finished is kept beside the checkpoint of the part that runs, until all is done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.lm.checkpoint import Checkpoint
from recsim_env.recommenders.fitting import Fitting
from recsim_env.recommenders.store import Arrays

Log = list[dict[str, float]]


class Parts:
    """The parts of one training.

    Args:
        fitting: Where it is kept, and whether it goes on from there.
        settings: Plain data; finished parts of other settings are not used.
    """

    def __init__(self, fitting: Fitting, settings: dict[str, Any]) -> None:
        self._fitting, self._settings = fitting, json.dumps(settings, sort_keys=True)

    def fitting(self) -> Fitting:
        """How the next part is kept: it goes on from the checkpoint, if there is one."""
        folder = self._fitting.folder
        return replace(
            self._fitting, resume=self._fitting.resume and folder is not None and Checkpoint(folder).exists()
        )

    def finished(self, name: str) -> tuple[Arrays, Log] | None:
        """What was learned in a part that is finished, and its log."""
        path = self._path(name)
        if not self._fitting.resume or path is None or not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
        log = json.loads(str(arrays.pop("log")))
        return (arrays, log) if str(arrays.pop("settings")) == self._settings else None

    def finish(self, name: str, arrays: Arrays, log: Log) -> None:
        """Keeps what was learned in a part."""
        path = self._path(name)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            told = {"log": np.array(json.dumps(log)), "settings": np.array(self._settings)}
            np.savez(path, **arrays, **told)  # type: ignore[arg-type]

    def remove(self, names: list[str]) -> None:
        """All is done."""
        for path in map(self._path, names):
            if path is not None:
                path.unlink(missing_ok=True)

    def _path(self, name: str) -> Path | None:
        return None if self._fitting.folder is None else self._fitting.folder / f"part-{name}.npz"
