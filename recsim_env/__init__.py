"""Simulated users for recommender systems.

``import recsim_env`` is light: no torch, vLLM, transformers, Mesa or matplotlib. Start with
:func:`recsim_env.run_scenario` and :func:`recsim_env.load_run`, or ``gymnasium.make("recsim_env/RecSim-v0")``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsim_env.rundir import load_run as load_run
    from recsim_env.runner import run_scenario as run_scenario
    from recsim_env.scenario import load_scenario as load_scenario

from recsim_env.registration import register as _register

__version__ = "0.1.0.dev0"

_register()

_LATE = {
    "load_run": "recsim_env.rundir",
    "load_scenario": "recsim_env.scenario",
    "run_scenario": "recsim_env.runner",
}


def __getattr__(name: str) -> Any:
    """Loads the public functions when they are first used."""
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'recsim_env' has no attribute {name!r}")


__all__ = ["__version__", "load_run", "load_scenario", "run_scenario"]
