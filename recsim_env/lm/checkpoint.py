"""Checkpoints of a training run: weights, optimiser, counters. Tensors as safetensors and weights-only archives."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from recsim_env.errors import RunFolderError


class Checkpoint:
    """A folder ``checkpoint`` inside the result's, replaced as a whole: a kill at any moment leaves one that is whole.

    Args:
        folder: The result's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self._new, self._old = (folder / f"checkpoint{end}" for end in ("", ".new", ".old"))

    def claim(self, resume: bool) -> None:
        """Makes sure that the result's folder may be written.

        Raises:
            RunFolderError: If it is not empty, or there is nothing to resume.
        """
        out = self.path.parent
        if not resume and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunFolderError(f"{out} is not empty. Choose another folder with --out, or go on with --resume.")
        if resume and not out.is_dir():
            raise RunFolderError(f"There is no folder {out} to resume. Leave --resume out, or check --out.")
        if resume and (out / "training.json").exists():
            raise RunFolderError(f"{out} is complete: there is nothing to resume. Train into another folder.")
        if resume and not self.exists() and not self._old.exists():
            raise RunFolderError(f"{out} holds no checkpoint yet. Remove the folder and train again without --resume.")

    def exists(self) -> bool:
        """Whether there is one."""
        return (self.path / "state.json").is_file()

    def save(self, weights: dict[str, Any], best: dict[str, Any], optimizer: Any, state: dict[str, Any]) -> None:
        """Writes a checkpoint in place of the last one."""
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir(parents=True)
        for name, tensors in (("weights", weights), ("best", best)):
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, self._new / f"{name}.safetensors")
        torch.save(optimizer.state_dict(), self._new / "optimizer.pt")
        (self._new / "state.json").write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(self._old, ignore_errors=True)
        if self.path.exists():
            os.replace(self.path, self._old)
        os.replace(self._new, self.path)
        shutil.rmtree(self._old, ignore_errors=True)

    def load(self, settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], Any, dict[str, Any]]:
        """Weights, best weights, the optimiser's state and the counters.

        Args:
            settings: Those of this run; they must be the checkpoint's.

        Raises:
            RunFolderError: If there is none, it is broken, or it was made with other settings.
        """
        if not self.exists() and self._old.exists():
            os.replace(self._old, self.path)  # killed between two renames
        try:
            state: dict[str, Any] = json.loads((self.path / "state.json").read_text(encoding="utf-8"))
            weights, best = (load_file(self.path / f"{name}.safetensors") for name in ("weights", "best"))
            optimizer = torch.load(self.path / "optimizer.pt", weights_only=True, map_location="cpu")
        except Exception as error:
            raise RunFolderError(
                f"Cannot resume from {self.path}: {error}. Train again without --resume into another folder."
            ) from None
        told = state["settings"]
        other = sorted(k for k in {*told, *settings} if told.get(k) != settings.get(k))
        if other:
            shown = "; ".join(f"{k}: {told.get(k)!r} there, {settings.get(k)!r} now" for k in other[:4])
            raise RunFolderError(f"{self.path} was made with other settings ({shown}). Give the same ones to --resume.")
        return weights, best, optimizer, state

    def remove(self) -> None:
        """Removes it: training is over."""
        for path in (self.path, self._new, self._old):
            shutil.rmtree(path, ignore_errors=True)
