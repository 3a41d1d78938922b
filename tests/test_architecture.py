"""The house rules that no single module can keep alone: import directions, light imports, mounts, wheel contents."""

import ast
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOUNTED = ("agents", "recommenders", "scenarios")

LAYERS = (
    {"records", "errors", "draws"},
    {
        "interfaces",
        "registry",
        "data",
        "rundir",
        "graphs",
        "graph_makers",
        "scenario",
        "engine.base",
        "rewards",
        "visible",
        "manifest",
        "rebuild",
        "lm",
    },
    {"agents", "recommenders", "engine", "evaluation", "scenarios"},
    {"simulator", "calendar", "spaces", "slots", "page"},
    {"build"},
    {"env", "vector_env", "vector_checker", "episodes", "wrappers", "population", "survey", "creators", "registration"},
    {"runner", "seat", "seated", "training"},
    {
        "experiments",
        "plots",
        "report",
        "report_parts",
        "report_engine",
        "watch",
        "watch_page",
        "serve",
        "terminal",
        "testing",
        "doctor",
    },
    {"cli", "cli_train", "cli_evaluate", "cli_study", "cli_serve", "cli_sweep", "cli_parts"},
)
"""Imports point downwards or stay in a layer: docs/architecture.md."""

FORBIDDEN_SIBLINGS = {
    "agents": {"recommenders", "evaluation"},
    "recommenders": {"agents", "evaluation"},
    "engine": {"agents", "recommenders", "evaluation"},
    "evaluation": {"agents", "recommenders", "engine"},
}
"""Parts of one layer that stay apart. Users and recommenders may speak to an engine; metrics read run folders only."""

THROUGH_THE_REGISTRY = {"simulator", "calendar", "spaces", "env", "vector_env", "build", "runner"}
"""Core modules, which know plug-ins by name only."""

ONLY_IMPORTERS = {
    "mesa": {"recsim_env.population", "recsim_env.creators"},
    "vllm": {"recsim_env.engine.vllm"},
    "trl": {"recsim_env.training.grpo_trainer"},
    "ray": {"recsim_env.experiments.workers"},
}


@cache
def files() -> dict[str, Path]:
    """All modules of the package: path inside the package to file."""
    folders = {"recsim_env": ROOT / "recsim_env", **{f"recsim_env/{m}": ROOT / m for m in MOUNTED}}
    return {
        f"{place}/{path.relative_to(folder).as_posix()}": path
        for place, folder in folders.items()
        for path in sorted(folder.rglob("*.py"))
        # The links to the mounted folders, should the walk follow them.
        if not (place == "recsim_env" and path.relative_to(folder).parts[0] in MOUNTED)
    }


@cache
def sources() -> dict[str, ast.Module]:
    """Syntax trees of all modules by import name."""
    names = {inner: inner.removesuffix(".py").replace("/", ".").removesuffix(".__init__") for inner in files()}
    return {names[inner]: ast.parse(path.read_text(encoding="utf-8"), str(path)) for inner, path in files().items()}


def imports(tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules that a tree imports anywhere: in functions and under TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction; write recsim_env.x"
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else str(node.module) for name in names}
    return found


def unit(module: str) -> str:
    """The part of the house that a module belongs to, as named in LAYERS."""
    inner = module.removeprefix("recsim_env.")
    return inner if inner == "engine.base" else inner.split(".")[0]


def level(module: str) -> int:
    known = [i for i, layer in enumerate(LAYERS) if unit(module) in layer]
    assert known, f"{module} has no layer: add {unit(module)!r} to LAYERS and to docs/architecture.md"
    return known[0]


def edges() -> list[tuple[str, str]]:
    modules = set(sources())
    return [
        (module, target)
        for module, tree in sources().items()
        if module != "recsim_env"  # its names are loaded late
        for target in sorted(imports(tree, modules))
        if target.startswith("recsim_env.")
    ]


def test_the_walk_sees_the_package():
    assert {
        "recsim_env.records",
        "recsim_env.agents.behavioral",
        "recsim_env.recommenders",
        "recsim_env.data.load",
    } <= set(sources())
    assert ("recsim_env.data.load", "recsim_env.registry") in edges()
    assert len(edges()) > 100


def test_the_rule_catches_what_it_should():
    tree = ast.parse(
        "def f():\n    from recsim_env import cli\nif TYPE_CHECKING:\n    from recsim_env.build import World\n"
    )
    assert imports(tree, {"recsim_env.cli"}) == {"recsim_env.cli", "recsim_env.build"}
    assert level("recsim_env.engine.base") < level("recsim_env.agents.llm") < level("recsim_env.simulator")
    with pytest.raises(AssertionError, match="has no layer"):
        level("recsim_env.nowhere")


def test_imports_point_downwards():
    upwards = {(a, b) for a, b in edges() if level(b) > level(a)}
    assert not upwards


def test_parts_of_one_layer_stay_apart():
    assert not [(a, b) for a, b in edges() if unit(b) in FORBIDDEN_SIBLINGS.get(unit(a), ())]


def test_the_core_reaches_plug_ins_through_the_registry():
    plug_ins = {"agents", "recommenders"}
    assert not [(a, b) for a, b in edges() if unit(a) in THROUGH_THE_REGISTRY and unit(b) in plug_ins]


@pytest.mark.parametrize("package", sorted(ONLY_IMPORTERS))
def test_heavy_packages_have_one_door(package):
    modules = set(sources())
    importers = {m for m, tree in sources().items() if package in {i.split(".")[0] for i in imports(tree, modules)}}
    assert importers <= ONLY_IMPORTERS[package]


GENERATORS = {"np.random", "numpy.random", "random"}
# Seeded generators, for libraries that want one, and reading the global state, to check that it stays as it is.
ALLOWED = {"Generator", "default_rng", "SeedSequence", "BitGenerator", "PCG64", "Philox", "get_state", "getstate"}
# vLLM and Stable-Baselines3 seed the global generators; what calls them puts these back as they were.
RESTORED = {
    "recsim_env.engine.vllm": {"set_state", "setstate"},
    "recsim_env.training.luck": {"seed", "set_state", "setstate"},
}
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle"}


def bad_habits(module: str, tree: ast.Module) -> list[str]:
    """Pickle, eval, exec, print outside the command line, and generators with global state."""
    found = []
    for node in ast.walk(tree):
        wrong = False
        if isinstance(node, ast.Import):
            wrong = any(a.name.split(".")[0] in PICKLES for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = {a.name for a in node.names}
            wrong = str(node.module).split(".")[0] in PICKLES or (node.module == "numpy" and "random" in names)
            wrong = wrong or (node.module in GENERATORS and not names <= ALLOWED)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            wrong = called in {"eval", "exec"} or (called == "print" and module != "recsim_env.cli")
            wrong = wrong or any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)
        elif isinstance(node, ast.Attribute):
            allowed = ALLOWED | RESTORED.get(module, set())
            wrong = ast.unparse(node.value) in GENERATORS and node.attr not in allowed
        if wrong:
            found.append(f"{module}:{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_bad_habits():
    assert not [line for module, tree in sources().items() for line in bad_habits(module, tree)]


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "from random import choice",
        "random.shuffle(x)",
        "from numpy import random",
        "from numpy.random import rand",
        "eval('1')",
        "exec('1')",
        "print(1)",
        "np.load(f, allow_pickle=True)",
        "np.random.seed(0)",
        "x = np.random.rand(3)",
    ],
)
def test_each_bad_habit_is_caught(code):
    assert bad_habits("recsim_env.x", ast.parse(code))


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "np.load(f, allow_pickle=False)", "np.random.default_rng(seed)", "random.getstate()"],
)
def test_good_habits_pass(code):
    assert not bad_habits("recsim_env.x", ast.parse(code))


def run_python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("module", ["recsim_env", "recsim_env.cli", "recsim_env.build"])
def test_imports_stay_light(module, tmp_path):
    code = (
        f"import sys, {module}\n"
        "heavy = {'torch', 'vllm', 'transformers', 'mesa', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'loaded {sorted(heavy)}' if heavy else 0)"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", MOUNTED)
def test_bare_names_are_refused(name):
    done = run_python(f"import {name}", ROOT)
    assert done.returncode == 1
    assert f"ImportError: Import 'recsim_env.{name}', not '{name}'" in done.stderr


def build_wheel(target: Path) -> Path:
    """Builds a wheel out of a copy of the tree, so that nothing is left behind in it."""
    tree = target / "tree"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "runs", "shared")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=skipped)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(target / "dist"), str(tree)]
    # The environment's own setuptools is used where it is new enough, else a fresh one is fetched.
    if importlib.util.find_spec("setuptools"):
        major = int(importlib.metadata.version("setuptools").split(".")[0])
        command += ["--no-isolation"] if major >= 77 else []
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (target / "dist").glob("*.whl")
    return wheel


def test_wheel_holds_everything_and_nothing_else(tmp_path):
    wheel = build_wheel(tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert set(files()) <= names
    assert {f"recsim_env/scenarios/{p.name}" for p in (ROOT / "scenarios").glob("*.yaml")} <= names
    builtin = {f"recsim_env/data/builtin/{n}" for n in ("ratings.parquet", "items.parquet", "LICENSE-movietweetings")}
    model = ("config.json", "model.safetensors", "tokenizer.json", "README.md", "training.json")
    builtin |= {f"recsim_env/data/builtin/user_lm/{n}" for n in model}
    page = (p for folder in ("templates", "static") for p in (ROOT / "recsim_env" / "serve" / folder).iterdir())
    assert {p.relative_to(ROOT).as_posix() for p in page} <= names
    assert builtin | {"recsim_env/py.typed", "recsim_env/training/user_lm_teacher.yaml"} <= names
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"recsim_env"}
    licences = {name.split("/licenses/")[-1] for name in names if "/licenses/" in name}
    assert {"LICENSE", "recsim_env/data/builtin/LICENSE-movietweetings"} <= licences

    code = (
        "import recsim_env, recsim_env.agents\n"
        "from recsim_env.registry import datasets\n"
        "from recsim_env.scenario import scenario_names\n"
        "print(recsim_env.__file__, recsim_env.agents.__file__, sep='\\n')\n"
        "print(len(datasets.get('movietweetings')().ratings), len(scenario_names()))"
    )
    done = run_python(code, tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    package, agents, counts = done.stdout.split("\n")[:3]
    assert package.startswith(str(tmp_path / "site"))
    assert agents.startswith(str(tmp_path / "site"))
    assert counts == f"44613 {len(list((ROOT / 'scenarios').glob('*.yaml')))}"
