"""Trains the user language model that ships with the package; its log stands beside it.

Usage: python scripts/make_builtin_user_lm.py OUT [--minutes 42]

The result goes to recsim_env/data/builtin/user_lm. The same as: recsim-env train user-lm --data movietweetings --size
small --seed 0 --minutes 42 with the settings below. On another machine as many steps do not fit into that time; the
model card names the number of steps, and --steps repeats it.
"""

from __future__ import annotations

import subprocess
import sys

SETTINGS = (
    "users.averages=true",  # cards tell the number of ratings and their mean: measured, see docs/user-lm.md
    "users.remembered=16",
    "users.memory.short=32",
    "dropout=0.05",
)


def main() -> int:
    """Runs the training."""
    out, *more = sys.argv[1:] or ["--help"]
    options = more or ["--minutes", "42"]
    command = [sys.executable, "-m", "recsim_env.cli", "train", "user-lm", "--data", "movietweetings", "--out", out]
    command += ["--size", "small", "--seed", "0", "--epochs", "6", *options]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
