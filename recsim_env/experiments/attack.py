"""How much hostile text lifts its item, and what the defences take off that: ``recsim-env attack``.

The users look at the same pages with the same keyed draws: once with the target item's own text, once with an attack in
it. The difference is the lift. It is measured with the users' defences off and on, each against a clean run of the same
defences and place.

An attack changes the requests that show its item and no other. Those that stay the same are answered from the stored
replies, which also lets a measurement that was stopped go on in its folder.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsim_env import manifest as facts
from recsim_env.build import World
from recsim_env.engine.replies import ReplyStore
from recsim_env.errors import RunFolderError, ScenarioError, UnknownNameError
from recsim_env.evaluation.bootstrap import resampled_counts
from recsim_env.experiments.attack_report import write_report
from recsim_env.experiments.hostile import TEMPLATES, write_into
from recsim_env.experiments.lift import Reaction, Stage, compare, first_pages, look, seated
from recsim_env.interfaces import UserModel
from recsim_env.registry import user_models
from recsim_env.rundir import RunFolder, measurement_folder
from recsim_env.runner import Progress
from recsim_env.scenario import Scenario, load_scenario, validate_config

POSITIONS = ("first", "middle", "last")
FIELDS = ("title", "text")
RESULT = "attack.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: every template in every field at every position, with the defences off and on.

    Attributes:
        templates: Names in :data:`~recsim_env.experiments.hostile.TEMPLATES`.
        positions: Of :data:`POSITIONS`.
        fields: Of :data:`FIELDS`.

    Raises:
        UnknownNameError: If a name does not exist.
        ScenarioError: If there is no name of a kind, or one twice.
    """

    templates: tuple[str, ...] = tuple(TEMPLATES)
    positions: tuple[str, ...] = POSITIONS
    fields: tuple[str, ...] = FIELDS

    def __post_init__(self) -> None:
        """Checks the names."""
        for kind, known in (("template", tuple(TEMPLATES)), ("position", POSITIONS), ("field", FIELDS)):
            names = getattr(self, f"{kind}s")
            for name in names:
                if name not in known:
                    raise UnknownNameError(kind, name, known, f"--{kind}s")
            if not names or len(set(names)) < len(names):
                raise ScenarioError(
                    f"--{kind}s {','.join(names)!r}: name at least one {kind}, each once. Allowed: {', '.join(known)}."
                )

    @property
    def n_looks(self) -> int:
        """How often all users look at a page."""
        return 2 * len(self.positions) * (1 + len(self.templates) * len(self.fields))


def run_attack(
    source: str | Path | Scenario,
    out: str | Path | None = None,
    overrides: Sequence[str] = (),
    plan: Plan | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Path:
    """Measures attacks on a scenario's users.

    Args:
        source: A shipped scenario's name, a YAML file or a Scenario; its seed and its first recommender make the pages.
        out: The folder; None makes ``runs/attack-<name>-<time>``. In a folder that holds this measurement already,
            what is stored is not asked again.
        overrides: ``"key=value"`` strings.
        plan: What is measured; None is everything.
        on_progress: Called whenever all users have looked at a page, and while the language model answers.

    Returns:
        The folder, with ``attack.json``, ``attack.md``, ``attack.png`` and ``replies.sqlite``.

    Raises:
        ScenarioError: If the users are no language-model users, no engine is named, or no item is new to all users.
        RunFolderError: If the folder holds something else.
    """
    plan, scenario = plan or Plan(), load_scenario(source, overrides)
    decide = _check_users(scenario)
    world, path = World(scenario), choose_folder(scenario, out)
    words = {name: TEMPLATES[name].words(decide) for name in plan.templates}
    with RunFolder(path) as folder:
        record = _open(path, world, plan, words)
        world.store = store = ReplyStore(path / "replies.sqlite")
        study = _Study(world, plan, words, on_progress)
        world.on_commit = study.tell
        try:
            record["engine"] = {"model": world.engine.model, "revision": world.engine.revision}
            folder.write_json(RESULT, record)
            stage = first_pages(world, store)
            record["target"] = _about(stage)
            record["rows"] = list(study.rows(stage))
            record["status"] = "complete"
        except BaseException as error:
            record["status"] = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            record["error"] = f"{type(error).__name__}: {error}"
            raise
        finally:
            record["seconds"] = study.seconds()
            record["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
            record["engine"] = {**world.engine_report(), "users": study.told}
            world.close()
            store.close()
            folder.write_json(RESULT, record)
        write_report(folder, record)
    return path


def choose_folder(scenario: Scenario, out: str | Path | None) -> Path:
    """The folder to write: the given one if it is empty or holds a measurement, or a new one under ``runs/``.

    Raises:
        RunFolderError: If it holds something else.
    """
    return measurement_folder(out, RESULT, f"attack-{scenario.name}")


def _check_users(scenario: Scenario) -> str:
    """How the users decide; refuses users that read no item texts."""
    kind = user_models.get(scenario.users.model, "users.model")
    if not kind.needs_engine or "defences" not in kind.config_class.model_fields:
        raise ScenarioError(
            f"attack needs language-model users, but users.model of {scenario.name!r} is {scenario.users.model!r}. "
            "Take the scenario llm_quickstart, or --set users.model=llm."
        )
    return str(getattr(validate_config(kind.config_class, scenario.users.config, "users"), "decide", "pointwise"))


def _open(path: Path, world: World, plan: Plan, words: dict[str, str]) -> dict[str, Any]:
    """The head of ``attack.json``; refuses a folder that holds a complete measurement of another scenario."""
    scenario = world.scenario
    identity = {
        "scenario": scenario.fingerprint(),
        "data": world.data_fingerprint(),
        "users' files": world.inputs_fingerprint(),
    }
    if (path / RESULT).exists():
        held = json.loads((path / RESULT).read_text())
        for what, now in identity.items():
            then = held["fingerprint"].get(what)
            if held["status"] == "complete" and then != now:
                raise RunFolderError(
                    f"{path} holds a measurement with other {what} (fingerprint {then}, now {now}). Choose another "
                    "folder with --out."
                )
    return {
        "schema": 1,
        "status": "running",
        "scenario": scenario.flat(),
        "fingerprint": identity,
        "seeds": [scenario.seed],
        "n_users": scenario.users.count,
        "recommender": scenario.recommenders[0].title,
        "templates": {n: {"description": TEMPLATES[n].description, "words": text} for n, text in words.items()},
        "positions": places(plan.positions, scenario.slate_size),
        "fields": list(plan.fields),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts.surroundings(),
        "rows": [],
    }


def places(positions: Sequence[str], slate_size: int) -> dict[str, int]:
    """Where on a page the positions are, from 0."""
    known = {"first": 0, "middle": slate_size // 2, "last": slate_size - 1}
    return {name: known[name] for name in positions}


def _about(stage: Stage) -> dict[str, Any]:
    catalog, item = stage.catalog, stage.target
    return {
        "item": item,
        "item_id": str(catalog.item_id[item]),
        "title": str(catalog.title[item]),
        "popularity": int(catalog.popularity[item]),
        "share_of_base_pages": float((stage.slate.items == item).any(axis=1).mean()),
    }


class _Study:
    """Goes through all conditions.

    Attributes:
        told: What all users tell of their requests, added up; as in a run's manifest (``engine.users``).
    """

    def __init__(
        self, world: World, plan: Plan, words: dict[str, str], on_progress: Callable[[Progress], None]
    ) -> None:
        self.world, self.plan, self.words, self.on_progress = world, plan, words, on_progress
        self.places = places(plan.positions, world.scenario.slate_size)
        self.told: dict[str, Any] = {"asked": Counter(), "failed": Counter()}
        self._begun, self._looks, self._label = time.perf_counter(), 0, "first pages"

    def seconds(self) -> float:
        """Since the start."""
        return round(time.perf_counter() - self._begun, 3)

    def rows(self, stage: Stage) -> Iterator[dict[str, Any]]:
        """One row per condition, in the order of the plan, first with the defences off."""
        counts, catalog = resampled_counts(stage.obs.n), self.world.dataset.catalog
        for defences in (False, True):
            way = "defences on" if defences else "defences off"
            clean = self._look(seated(self.world, stage, defences, catalog), stage, f"clean, {way}")
            for template, words in self.words.items():
                for field in self.plan.fields:
                    written = write_into(catalog, stage.target, field, words)
                    model = seated(self.world, stage, defences, written)
                    attacked = self._look(model, stage, f"{template} in {field}, {way}")
                    for position, place in self.places.items():
                        condition = {"template": template, "field": field, "position": position, "place": place}
                        figures = compare(attacked[position], clean[position], place, counts)
                        yield {**condition, "defences": defences, "n_users": stage.obs.n, **figures}

    def tell(self) -> None:
        """Tells how far the study is."""
        self.on_progress(
            Progress(
                cell=self._looks,
                n_cells=self.plan.n_looks,
                label=self._label,
                day=0,
                days=1,
                n_turns=self._looks * self.world.scenario.users.count,
                seconds=self.seconds(),
                engine=self.world.engine_usage(),
            )
        )

    def _look(self, model: UserModel, stage: Stage, label: str) -> dict[str, Reaction]:
        """What the users make of the target at each position."""
        before, found = model.state(), {}
        for position, place in self.places.items():
            self._label = f"{label}, {position}"
            self.tell()
            found[position] = look(model, before, stage, place, self.world.scenario.batch_size)
            self._looks += 1
        self.tell()
        for name, value in model.engine_report().items():
            if isinstance(self.told.get(name), Counter):
                self.told[name].update(value)
            else:
                self.told[name] = value
        return found
