"""Trains the user language model that ships with the package; its log stands beside it.

Usage: python scripts/make_builtin_user_lm.py OUT [--minutes 60] [--steps N] [--resume]

The result goes to recsim_env/data/builtin/user_lm. It is recsim-env train user-lm with the settings below; more options
are handed on. The shipped model had 50 minutes. How many steps fit into a time depends on the machine; a run with
--steps is repeatable.
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
    options = more or ["--minutes", "60"]
    command = [sys.executable, "-m", "recsim_env.cli", "train", "user-lm", "--data", "movietweetings", "--out", out]
    command += ["--size", "small", "--seed", "0", "--epochs", "6", *options]
    command += [part for setting in SETTINGS for part in ("--set", setting)]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
