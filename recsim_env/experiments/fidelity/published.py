"""Figures to compare with: those of others on this protocol, and the goals that this project set itself."""

from __future__ import annotations

PUBLISHED = {
    "popularity / item mean (published)": {
        "f1_m1": 0.791, "f1_m3": 0.636, "f1_m9": 0.457, "f1_m19": 0.329, "mae": 0.781, "rmse": 0.914,
    },
    "Agent4Rec-style prompt, 27B (published)": {
        "f1_m1": 0.667, "f1_m3": 0.528, "f1_m9": 0.318, "f1_m19": 0.195, "mae": 0.927, "rmse": 1.182,
    },
    "history + item statistics, Qwen3-8B (published)": {
        "f1_m1": 0.565, "f1_m3": 0.463, "f1_m9": 0.310, "f1_m19": 0.204, "mae": 0.782, "rmse": 0.988,
    },
    "history + item statistics, 27B (published)": {
        "f1_m1": 0.756, "f1_m3": 0.640, "f1_m9": 0.438, "f1_m19": 0.292, "mae": 0.698, "rmse": 0.917,
    },
}  # fmt: skip
"""MovieLens-1M, by an independent study (agafonovartem/beyond-click-sim, 2026)."""

GOALS: dict[str, tuple[float | None, float | None]] = {
    "f1_m1": (0.84, None), "f1_m3": (0.74, None), "f1_m9": (0.60, None), "f1_m19": (0.48, None),
    "mae": (None, 0.69), "rmse": (None, 0.87), "js": (None, 0.01), "spread": (0.85, 1.15),
}  # fmt: skip
"""Lowest and highest figure that a hybrid user should have on MovieLens-1M."""


def missed(figures: dict[str, float]) -> list[str]:
    """The goals that figures miss, in words."""
    found = []
    for name, (low, high) in GOALS.items():
        value = figures.get(name)
        if value is None:
            continue
        if low is not None and value < low:
            found.append(f"{name} is {value:.3f}, goal at least {low:g}")
        if high is not None and value > high:
            found.append(f"{name} is {value:.3f}, goal at most {high:g}")
    return found


def is_movielens(name: str) -> bool:
    """Whether goals and published figures speak of this data set."""
    return name.lower().replace("_", "-") in ("ml-1m", "movielens-1m")
