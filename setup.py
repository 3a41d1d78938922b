"""Mounts the three top-level folders inside the package; everything else stands in pyproject.toml.

Sub-packages are computed, because a hand-written list silently loses new ones from the wheel.
"""

from setuptools import find_packages, setup

MOUNTED = ("agents", "recommenders", "scenarios")
own = [
    p for p in find_packages(include=["recsim_env", "recsim_env.*"]) if p.split(".")[1:2] not in [[m] for m in MOUNTED]
]
mounted = [f"recsim_env.{p}" for m in MOUNTED for p in [m, *(f"{m}.{s}" for s in find_packages(m))]]
setup(packages=own + mounted, package_dir={"recsim_env": "recsim_env", **{f"recsim_env.{m}": m for m in MOUNTED}})
