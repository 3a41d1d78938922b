"""What all parts of the command line share: consoles, options, progress bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsim_env.errors import UnknownNameError

out, err = Console(), Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the scenario; repeatable.")
]
EngineName = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", help="Language-model engine, with its own defaults.")
]
Model = Annotated[str | None, typer.Option("--model", metavar="MODEL", help="Model of the engine.")]
Urls = Annotated[list[str] | None, typer.Option("--url", help="Address of an endpoint; repeatable.")]
Replies = Annotated[
    Path | None, typer.Option("--replies", metavar="RUN", help="Replay the stored replies of a run: no model.")
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Runs at once; default one a core.")]
OutDir = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Run folder; default runs/NAME-TIME.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
DataName = Annotated[str, typer.Option("--data", metavar="NAME_OR_PATH", help="A built-in data set, or a path.")]


def data_source(name: str) -> dict[str, Any]:
    """The ``data`` section of a scenario for a built-in data set or a path.

    Raises:
        UnknownNameError: If it is neither.
    """
    from recsim_env.registry import datasets

    if name in datasets.names():
        return {"name": name}
    if not Path(name).exists():
        raise UnknownNameError("dataset", name, datasets.names(), "--data", "Or give the path of a folder or file.")
    return {"path": name}


def engine_changes(engine: str | None, model: str | None, url: list[str] | None, replies: Path | None) -> list[str]:
    """The engine's options as ``--set`` overrides; a new engine starts from its own defaults, not another's."""
    import json

    changes = {"engine.model": model, "engine.base_urls": url}
    if replies is not None:
        told = _recorded_engine(replies)
        changes = {"engine.model": model or told.get("model", ""), "engine.revision": told.get("revision", "")}
        changes["engine.replies"] = str(replies)
        engine = "replay"
    named = [] if engine is None else [f"engine={{name: {engine}}}"]
    return named + [f"{key}={json.dumps(value)}" for key, value in changes.items() if value]


def _recorded_engine(folder: Path) -> dict[str, Any]:
    """Whose replies a folder holds: those of a run, or of a measurement of attacks or fidelity."""
    from recsim_env.rundir import load_measurement, load_run

    measured = [name for name in ("attack.json", "fidelity.json") if (folder / name).exists()]
    record = load_measurement(folder, measured[0]) if measured else load_run(folder).manifest
    told: dict[str, Any] = record["engine"] or {}
    return told


def names_of(text: str) -> tuple[str, ...]:
    """The names of a list that is joined by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def show_table(lines: Sequence[Sequence[str]], title: str = "") -> None:
    """Prints a header with its lines.

    A table wider than the terminal would lose columns; a pipe gets the width that it needs.
    """
    header, *rows = lines
    shown = Table(*map(escape, header), box=None, padding=(0, 1, 0, 0), title_justify="left")
    shown.title = escape(title) or None
    for row in rows:
        shown.add_row(*map(escape, row))
    (out if out.is_terminal else Console(width=250)).print(shown)


class Bar:
    """A progress bar with the time left; as a context manager it gives the function that moves it.

    Args:
        quiet: Show nothing.
        columns: Formats of the texts behind the bar.
        label: What stands before it at first.
        fields: First values of the formats' own fields.
    """

    def __init__(self, quiet: bool, columns: tuple[str, ...], label: str, **fields: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        texts = [TextColumn(text) for text in columns]
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), *texts, TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), console=err, disable=quiet,
        )  # fmt: skip
        self._task = self._bar.add_task(label, total=None, **fields)

    def __enter__(self) -> Any:
        self._bar.start()
        return self._update

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def _update(self, at: Any) -> None:
        raise NotImplementedError


class TurnsBar(Bar):
    """A progress bar over all cells, with user-turns a second and what a language model was asked."""

    def __init__(self, quiet: bool) -> None:
        columns = ("{task.percentage:>3.0f} %", "{task.fields[rate]} user-turns/s{task.fields[asked]}")
        super().__init__(quiet, columns, "Preparing data and users", rate="-", asked="")

    def _update(self, at: Any) -> None:
        rate = f"{at.n_turns / at.seconds:,.0f}" if at.n_turns else "-"
        self._bar.update(
            self._task,
            total=at.n_cells * at.days,
            completed=at.cell * at.days + at.day,
            description=at.label,
            rate=rate,
            asked="" if at.engine is None else f" · {_asked(at.engine)} ·",
        )


def _asked(usage: Any) -> str:
    """What the language model did, in a few words."""
    requests = sum(usage.requests.values())
    words = [f"{requests:,} requests", f"{usage.prompt_tokens + usage.generated_tokens:,} tokens"]
    words += [f"{usage.cached_tokens / usage.prompt_tokens:.0%} cached"] if usage.prompt_tokens else []
    words += [f"{usage.stored:,} from stored replies"] if usage.stored else []
    failures = sum(usage.failures.values())
    return ", ".join([*words, *([f"{failures:,} failures"] if failures else [])])
