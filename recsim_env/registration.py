"""Tells Gymnasium the environment's name."""

from __future__ import annotations

import gymnasium

ENV_ID = "recsim_env/RecSim-v0"


def register() -> None:
    """Registers :data:`ENV_ID`, once however often it is called."""
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(
            ENV_ID, entry_point="recsim_env.env:RecSimEnv", vector_entry_point="recsim_env.env:RecSimVectorEnv"
        )
