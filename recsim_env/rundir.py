"""The run folder: written by one runner, read by everything else.

::

    scenario.yaml          the resolved scenario
    manifest.json          who ran what, where, with which versions; cells; status
    progress.json          the state pointer: which parts are committed
    items.parquet          the catalogue          users.parquet   the population with its past
    impressions.parquet/   one row per shown item
    turns.parquet/         one row per user-turn
    sessions.parquet/      one row per session
    population.parquet/    one row per day of a population
    friends.parquet/       who knows whom in it        opinions.parquet/  what users told each other of items
    surveys.parquet/       what users answered when they were asked, hidden from recommenders
    trends.parquet/        what was watched most of late, every evening
    creators.parquet/      one row per creator and day releases.parquet/  which item came out when
    messages.jsonl         what was said, both ways
    replies.sqlite         stored replies, where something cannot be repeated

A *cell* is one (recommender, seed) of the scenario. Rows are written in parts of whole days; a part counts once
``progress.json`` names it, and that file is replaced last, so a kill at any moment leaves whole parts only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recsim_env.errors import RunFolderError
from recsim_env.records import Catalog, IntArray, Users

SCHEMA_VERSION = 1
_LOCK_ATTEMPTS = 5

_WORD = pa.dictionary(pa.int32(), pa.string())
_CELL = [("recommender", _WORD), ("seed", pa.int64())]
_WHEN = [("day", pa.int32()), ("session", pa.int32()), ("turn", pa.int32()), ("user", pa.int64())]


def _schema(*groups: list[tuple[str, pa.DataType]]) -> pa.Schema:
    fields = [pa.field(name, kind) for group in groups for name, kind in group]
    return pa.schema(fields, metadata={"recsim_env.schema": str(SCHEMA_VERSION)})


SCHEMAS: dict[str, pa.Schema] = {
    "impressions": _schema(
        _CELL,
        _WHEN,
        [("item", pa.int32()), ("position", pa.int16()), ("propensity", pa.float32())],
        [("position_propensity", pa.float32()), ("policy", _WORD)],
        [("clicked", pa.bool_()), ("watched_fraction", pa.float32()), ("liked", pa.bool_()), ("shared", pa.bool_())],
        [("rating", pa.float32()), ("comment", pa.string()), ("reward", pa.float32())],
        [("trace_examined", pa.bool_()), ("trace_p_click", pa.float32()), ("trace_expected_rating", pa.float32())],
    ),
    "turns": _schema(
        _CELL,
        _WHEN,
        [("policy", _WORD), ("version", _WORD), ("message_kind", pa.int8()), ("message", pa.string())],
        [("candidates", pa.list_(pa.int32())), ("answer", pa.string()), ("next_action", pa.int8())],
        [("next_message", pa.string()), ("reward", pa.float32())],
        [("trace_mood", pa.float32()), ("trace_boredom", pa.float32()), ("trace_trust", pa.float32())],
        [("trace_thoughts", pa.string()), ("trace_fallback", pa.bool_())],
    ),
    "sessions": _schema(
        _CELL,
        [("day", pa.int32()), ("session", pa.int32()), ("user", pa.int64()), ("n_turns", pa.int32())],
        [("n_clicks", pa.int32()), ("watched", pa.float32()), ("n_ratings", pa.int32()), ("mean_rating", pa.float32())],
        [("reward", pa.float32()), ("satisfaction", pa.float32()), ("churned", pa.bool_())],
    ),
    "population": _schema(
        _CELL,
        [("day", pa.int32()), ("members", pa.int64()), ("new", pa.int64()), ("came", pa.int64())],
        [("churned", pa.int64()), ("chats", pa.int64()), ("posts", pa.int64()), ("heard", pa.int64())],
        [("satisfaction", pa.float32()), ("trace_likeness", pa.float32()), ("trace_divide", pa.float32())],
    ),
    "friends": _schema(_CELL, [("user", pa.int64()), ("friend", pa.int64()), ("closeness", pa.float32())]),
    "opinions": _schema(
        _CELL,
        [("day", pa.int32()), ("user", pa.int64()), ("to", pa.int64()), ("item", pa.int32())],
        [("stars", pa.float32()), ("valence", pa.float32())],
    ),
    "trends": _schema(
        _CELL, [("day", pa.int32()), ("rank", pa.int32()), ("item", pa.int32()), ("watched", pa.int64())]
    ),
    "surveys": _schema(
        _CELL,
        [("day", pa.int32()), ("user", pa.int64()), ("item", pa.int32()), ("heard", pa.int32())],
        [("trace_before", pa.float32()), ("trace_mark", pa.float32()), ("trace_watch", pa.float32())],
    ),
    "creators": _schema(
        _CELL,
        [("day", pa.int32()), ("creator", pa.int32()), ("active", pa.bool_()), ("items", pa.int64())],
        [("shown", pa.int64()), ("clicked", pa.int64())],
    ),
    "releases": _schema(_CELL, [("day", pa.int32()), ("creator", pa.int32()), ("item", pa.int32())]),
}
"""Arrow schema of each table. Columns named ``trace_*`` are hidden from every policy. docs/run-folder.md explains."""


def new_folder(name: str) -> Path:
    """A folder ``runs/<name>-<time>`` that is not there yet."""
    stem = f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    numbered = (Path("runs") / (stem if i == 1 else f"{stem}-{i}") for i in range(1, 1000))
    return next(path for path in numbered if not path.exists())


def measurement_folder(out: str | Path | None, result: str, name: str) -> Path:
    """The folder of a measurement: the given one if it is empty or holds one of this kind, or a new one.

    Args:
        out: The folder; None makes one.
        result: File that tells a measurement of this kind.
        name: Start of a new folder's name.

    Raises:
        RunFolderError: If it is a file or holds something else.
    """
    if out is None:
        return new_folder(name)
    path = Path(out)
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file. Choose a folder with --out.")
    held = {file.name for file in path.iterdir()} - {".lock"} if path.exists() else set()
    if held and result not in held:
        raise RunFolderError(f"{path} is not empty and holds no {result}. Choose another folder with --out.")
    return path


def load_measurement(folder: Path, result: str) -> dict[str, Any]:
    """What the measurement in a folder wrote as its result."""
    record: dict[str, Any] = json.loads((folder / result).read_text(encoding="utf-8"))
    return record


class RunFolder:
    """The writing side. One writer at a time; use as a context manager.

    Args:
        path: The folder; made if absent.

    Raises:
        RunFolderError: If another process is writing it, or the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / ".lock").open("w")
        for attempt in range(_LOCK_ATTEMPTS):
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:  # a writer, or is_written() of somebody who looks on, for a moment
                time.sleep(0.02 if attempt + 1 < _LOCK_ATTEMPTS else 0.0)
        self._lock.close()
        raise RunFolderError(
            f"{path} is being written by another process. Wait for it to end, or choose another folder with --out."
        )

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()  # closing releases the lock

    def progress(self) -> dict[str, Any]:
        """What is committed: cell name to ``{"days": n, "parts": n, "messages": bytes, "done": bool}``."""
        file = self.path / "progress.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replaces a JSON file as a whole, durably."""
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Replaces a text file as a whole, durably."""
        with disk_errors(self.path):
            replace_file(self.path / name, lambda file: file.write(text.encode()))

    def write_frame(self, name: str, table: pa.Table) -> None:
        """Replaces a Parquet file as a whole, durably."""
        with disk_errors(self.path):
            replace_file(self.path / name, lambda file: pq.write_table(table, file, compression="zstd"))

    def drop_uncommitted(self) -> None:
        """Removes parts and messages that no commit names: what a kill left half done."""
        progress = self.progress()
        keep = {f"{cell}-{part:05d}.parquet" for cell, state in progress.items() for part in range(state["parts"])}
        for table in SCHEMAS:
            for file in (self.path / f"{table}.parquet").glob("*"):
                if file.name not in keep:
                    file.unlink()
        messages = self.path / "messages.jsonl"
        if messages.exists():
            os.truncate(messages, max((state["messages"] for state in progress.values()), default=0))


class CellWriter:
    """Writes the rows of one cell, part by part.

    Rows arrive as struct-of-arrays blocks, are gathered into large row groups, and become visible with
    :meth:`commit`. Days that are committed already are passed over, so a repeated run writes what is missing.

    Args:
        folder: The run folder.
        recommender: Label of the recommender.
        seed: Seed of the replication.

    Attributes:
        pending_rows: Impressions not yet committed.
    """

    ROWS_PER_GROUP = 400_000

    def __init__(self, folder: RunFolder, recommender: str, seed: int) -> None:
        self.folder = folder
        self.name = cell_name(recommender, seed)
        self._constant = {"recommender": recommender, "seed": seed}
        self._state = folder.progress().get(self.name, {"days": 0, "parts": 0, "messages": 0, "done": False})
        self._blocks: dict[str, list[pa.RecordBatch]] = {table: [] for table in SCHEMAS}
        self._files: dict[str, pq.ParquetWriter] = {}
        self.pending_rows = 0
        self._messages: list[str] = []
        self._who = json.dumps(self._constant, ensure_ascii=False)[1:-1]
        self._quoted: dict[str, str] = {}

    @property
    def committed_days(self) -> int:
        """Days whose rows are safe."""
        return int(self._state["days"])

    @property
    def done(self) -> bool:
        """Whether the cell is complete."""
        return bool(self._state["done"])

    def add(self, table: str, n: int, columns: Mapping[str, Any]) -> None:
        """Adds ``n`` rows to a table; absent columns are null, scalars stand for every row."""
        schema = SCHEMAS[table]
        values = {**self._constant, **columns}
        arrays = [_array(values.get(field.name), field.type, n) for field in schema]
        self._blocks[table].append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        if table == "impressions":
            self.pending_rows += n
        if sum(block.num_rows for block in self._blocks[table]) >= self.ROWS_PER_GROUP:
            self._flush(table)

    def say(
        self, day: int, session: int, turn: int, user: int, speaker: str, kind: str, text: str, to: Sequence[int] = (),
        item: int = -1, stars: float = math.nan,
    ) -> None:  # fmt: skip
        """Adds one line to ``messages.jsonl``: who said what, when (as in the tables), who heard it, of which item."""
        words = self._quoted.get(text)
        if words is None:
            words = json.dumps(text, ensure_ascii=False)
            if len(self._quoted) < 10_000:  # behavioural users say the same few sentences over and over
                self._quoted[text] = words
        heard = f', "to": {list(to)}' if to else ""
        about = f', "item": {item}, "stars": {stars:g}' if item >= 0 else ""
        self._messages.append(
            f'{{{self._who}, "day": {day}, "session": {session}, "turn": {turn}, "user": {user}, '
            f'"speaker": "{speaker}", "kind": "{kind}", "text": {words}{heard}{about}}}\n'
        )

    def _part(self, table: str) -> Path:
        return self.folder.path / f"{table}.parquet" / f"{self.name}-{self._state['parts']:05d}.parquet"

    def _flush(self, table: str) -> None:
        blocks = self._blocks[table]
        if not blocks:
            return
        with disk_errors(self.folder.path):
            if table not in self._files:
                part = self._part(table)
                part.parent.mkdir(exist_ok=True)
                # Plain encoding: dictionaries cost more time here than they save space, except for words.
                words = [field.name for field in SCHEMAS[table] if pa.types.is_dictionary(field.type)]
                self._files[table] = pq.ParquetWriter(
                    part.with_suffix(".tmp"), SCHEMAS[table], compression="lz4", use_dictionary=words,
                    write_statistics=False,
                )  # fmt: skip
            self._files[table].write_table(pa.Table.from_batches(blocks, SCHEMAS[table]))
        self._blocks[table] = []

    def commit(self, days: int, done: bool = False) -> None:
        """Makes everything added so far durable: parts first, the state pointer last.

        Args:
            days: Days that are complete with this part.
            done: Whether the cell is complete.

        Raises:
            RunFolderError: If the disk refuses; what was committed before stays whole.
        """
        folder = self.folder.path
        with disk_errors(folder):
            for table in SCHEMAS:
                self._flush(table)
            written = list(self._files)
            for table in written:
                self._files.pop(table).close()
                part = self._part(table)
                with part.with_suffix(".tmp").open("rb") as file:
                    os.fsync(file.fileno())
                part.with_suffix(".tmp").replace(part)
                sync_folder(part.parent)
            with (folder / "messages.jsonl").open("ab") as file:
                file.write("".join(self._messages).encode())
                file.flush()
                os.fsync(file.fileno())
                length = file.tell()
        self._messages, self.pending_rows = [], 0
        parts = self._state["parts"] + bool(written)
        self._state = {"days": days, "parts": parts, "messages": length, "done": done}
        self.folder.write_json("progress.json", {**self.folder.progress(), self.name: self._state})

    def abandon(self) -> None:
        """Closes and removes what is not committed."""
        for table, file in self._files.items():
            with contextlib.suppress(OSError):
                file.close()
            self._part(table).with_suffix(".tmp").unlink(missing_ok=True)
        self._files = {}


def is_written(path: Path) -> bool:
    """Whether a process holds the folder's lock now; what a killed writer held is free.

    The lock is tried as shared and let go at once: readers see no writer in each other, and a writer that starts in
    this very moment tries again.
    """
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def cell_name(recommender: str, seed: int) -> str:
    """File-name form of a cell."""
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in recommender)
    return f"{safe}-seed{seed}"


def _array(value: Any, kind: pa.DataType, n: int) -> pa.Array:
    """One column out of an array, a list, a scalar or nothing."""
    if value is None:
        return pa.nulls(n, kind)
    if pa.types.is_dictionary(kind):
        if isinstance(value, tuple):  # (codes, words)
            codes, words = value
            return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(words, pa.string()))
        return pa.DictionaryArray.from_arrays(pa.array(np.zeros(n, np.int32)), pa.array([value], pa.string()))
    if np.isscalar(value):
        return pa.array(np.full(n, value), kind)
    if isinstance(value, np.ndarray) and value.dtype != object:
        if value.ndim == 2:
            offsets = np.arange(0, value.size + 1, value.shape[1], dtype=np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(value.ravel(), kind.value_type))
        return pa.array(value, kind)
    return pa.array(value, kind, from_pandas=True)


def replace_file(path: Path, write: Any) -> None:
    """Writes a file beside its place, syncs it and puts it in place in one step."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns refusals of the disk into a message that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else (error.strerror or str(error))
        raise RunFolderError(
            f"Cannot write {path}: {what}. The rows committed so far are intact; "
            f"{'free some space' if full else 'mend it'} and go on with --resume --out {path}."
        ) from error


def write_items(folder: RunFolder, catalog: Catalog, creator: IntArray | None = None) -> None:
    """Writes ``items.parquet``, with the items' creators, int (I,), where there are any."""
    names = np.array(catalog.categories, object)
    folder.write_frame(
        "items.parquet",
        pa.table(
            {
                "item": np.arange(catalog.n_items, dtype=np.int32),
                "item_id": pa.array(catalog.item_id, pa.string()),
                "title": pa.array(catalog.title, pa.string()),
                "year": catalog.year,
                "categories": pa.array([names[row].tolist() for row in catalog.item_categories], pa.list_(pa.string())),
                "popularity": catalog.popularity,
                **({} if creator is None else {"creator": creator}),
            }
        ).replace_schema_metadata({"recsim_env.categories": json.dumps(catalog.categories)}),
    )


def write_users(folder: RunFolder, populations: Mapping[int, Users]) -> None:
    """Writes ``users.parquet``: the population of every seed, with its past."""
    tables = []
    for seed, users in populations.items():
        past = users.history
        offsets = pa.array(past.offsets, pa.int32())
        columns = {
            "seed": np.full(users.n_users, seed),
            "user": np.arange(users.n_users),
            "user_id": pa.array(users.user_id, pa.string()),
            "data_user": users.data_user,
            **{name: pa.array(values, pa.string()) for name, values in users.profile.items()},
            "history": pa.ListArray.from_arrays(offsets, pa.array(past.items, pa.int32())),
            "history_rating": pa.ListArray.from_arrays(offsets, pa.array(past.ratings, pa.float32())),
        }
        tables.append(pa.table(columns))
    folder.write_frame("users.parquet", pa.concat_tables(tables))


_TALK = (b'"kind": "chat"', b'"kind": "post"')
"""As :meth:`CellWriter.say` writes them; inside a text the quotes would be escaped."""


class Run:
    """The reading side: pandas frames of a run folder, loaded when first asked for.

    Only committed rows are read, so a run can be looked at while it is written.

    Args:
        path: The run folder.

    Raises:
        RunFolderError: If the folder is no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "manifest.json").exists():
            raise RunFolderError(f"{self.path} is no run folder: it has no manifest.json. 'recsim-env run' makes one.")
        self.manifest: dict[str, Any] = json.loads((self.path / "manifest.json").read_text())

    @property
    def cells(self) -> list[tuple[str, int]]:
        """All cells that the run is to have, in its order."""
        sections = self.manifest["scenario"]["recommenders"]
        names = [str(section.get("label") or section["name"]) for section in sections]
        return [(name, int(seed)) for name in names for seed in self.manifest["seeds"]]

    @property
    def people(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """By cell the users in whose seats a person sat: they are not simulated, or not throughout."""
        found: dict[tuple[str, int], tuple[int, ...]] = {}
        for one in self.manifest.get("people", ()):
            cell = (str(one["recommender"]), int(one["seed"]))
            found[cell] = (*found.get(cell, ()), int(one["user"]))
        return found

    def progress(self) -> dict[str, Any]:
        """What is committed now, as :meth:`RunFolder.progress` tells it."""
        file = self.path / "progress.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def table(
        self,
        name: str,
        columns: list[str] | None = None,
        cell: str | None = None,
        user: int | None = None,
        first_part: int = 0,
    ) -> pd.DataFrame:
        """One table, or some of its columns, of all cells or one, of all users or one.

        Args:
            name: One of :data:`SCHEMAS`.
            columns: Columns to read; None is all.
            cell: Name of a cell as in ``progress.json``; None is all.
            user: Row of a user in the population of its seed; None is all.
            first_part: Parts of each cell before this one are passed over, for readers who know them already.
        """
        parts = [
            file
            for title, state in self.progress().items()
            if cell in (None, title)
            for part in range(first_part, state["parts"])
            if (file := self.path / f"{name}.parquet" / f"{title}-{part:05d}.parquet").exists()
        ]
        schema = SCHEMAS[name] if columns is None else pa.schema([SCHEMAS[name].field(c) for c in columns])
        rows = None if user is None else [("user", "=", user)]
        tables = [pq.read_table(file, columns=columns, filters=rows) for file in parts]
        whole = pa.concat_tables(tables).unify_dictionaries() if tables else schema.empty_table()
        frame: pd.DataFrame = whole.to_pandas()
        return frame

    @cached_property
    def impressions(self) -> pd.DataFrame:
        """One row per shown item."""
        return self.table("impressions")

    @cached_property
    def turns(self) -> pd.DataFrame:
        """One row per user-turn."""
        return self.table("turns")

    @cached_property
    def sessions(self) -> pd.DataFrame:
        """One row per session."""
        return self.table("sessions")

    @cached_property
    def population(self) -> pd.DataFrame:
        """One row per day of a population; empty where the scenario has none."""
        return self.table("population")

    @cached_property
    def friends(self) -> pd.DataFrame:
        """Who knows whom in a population, every tie twice."""
        return self.table("friends")

    @cached_property
    def opinions(self) -> pd.DataFrame:
        """What behavioural users told each other of items; ``to`` is -1 where all acquaintances heard it."""
        return self.table("opinions")

    @property
    def trends(self) -> pd.DataFrame:
        """What was watched most of late, every evening (``population.trends``)."""
        return self.table("trends")

    @property
    def surveys(self) -> pd.DataFrame:
        """What users of a population said when they were asked (``population.survey``)."""
        return self.table("surveys")

    @cached_property
    def creators(self) -> pd.DataFrame:
        """One row per creator and day; empty where the scenario has none."""
        return self.table("creators")

    @cached_property
    def releases(self) -> pd.DataFrame:
        """When each item came out, and whose it is, in a run with creators; what was held back to the end is absent."""
        return self.table("releases")

    @cached_property
    def items(self) -> pd.DataFrame:
        """The catalogue."""
        return pd.read_parquet(self.path / "items.parquet")

    @cached_property
    def users(self) -> pd.DataFrame:
        """The population with its past."""
        return pd.read_parquet(self.path / "users.parquet")

    @cached_property
    def messages(self) -> list[dict[str, Any]]:
        """What was said, both ways."""
        return [json.loads(line) for line in self._lines(0)]

    def talks(self, start: int = 0) -> list[dict[str, Any]]:
        """The chats and posts among the messages, without parsing the others.

        Args:
            start: Bytes of ``messages.jsonl`` to pass over, for readers who know them already.
        """
        return [json.loads(line) for line in self._lines(start) if any(kind in line for kind in _TALK)]

    def _lines(self, start: int) -> Iterator[bytes]:
        """Committed lines of ``messages.jsonl`` from a byte on."""
        left = max((state["messages"] for state in self.progress().values()), default=0) - start
        if left <= 0:
            return
        with (self.path / "messages.jsonl").open("rb") as file:
            file.seek(start)
            for line in file:
                left -= len(line)
                if left < 0:
                    return
                yield line


def load_run(path: str | Path) -> Run:
    """Opens a run folder for reading; ``load_run(path).impressions`` is a pandas frame.

    Raises:
        RunFolderError: If the folder is no run.
    """
    return Run(path)
