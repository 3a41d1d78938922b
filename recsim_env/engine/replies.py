"""Stored replies: everything that cannot be computed again is kept, so that a run can be repeated anywhere.

A reply is found by a key of all that it depends on; only exact hits count. Besides engines' replies, slates of
policies that are not repeatable (a GPU model) and what a person did in a user's seat are stored the same way.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recsim_env.engine.base import EngineUsage, InterruptedBatch
from recsim_env.errors import EngineError, RunFolderError
from recsim_env.interfaces import Config, Engine
from recsim_env.records import ChoiceRequest, Completion, FloatArray, ObservationBatch, SlateBatch, TextRequest

COMMIT_REQUESTS = 4096
"""Requests that are asked and committed at once: what a kill can cost. Engines are no faster with more."""

_TABLES = (
    "CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS usage (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


class ReplyStore:
    """Replies in one SQLite file (write-ahead log, one commit a batch), and what they cost.

    Args:
        path: The file; made if absent.
        read_only: Open somebody else's store, which stays as it is; it may lie where nothing can be written.

    Raises:
        RunFolderError: If the file is no reply store or cannot be opened.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        try:
            if read_only:
                self._database = _open_read_only(path)
            else:
                self._database = sqlite3.connect(path)
                self._database.execute("PRAGMA journal_mode=WAL")
                for table in _TABLES:
                    self._database.execute(table)
        except sqlite3.Error as error:
            raise RunFolderError(f"Cannot open the stored replies {path}: {error}.") from None

    def get(self, keys: Sequence[str]) -> list[Any]:
        """Stored values in the order of the keys, None where there is none."""
        found: dict[str, Any] = {}
        for start in range(0, len(keys), 500):
            some = keys[start : start + 500]
            marks = ",".join("?" * len(some))
            found.update(self._database.execute(f"SELECT key, value FROM replies WHERE key IN ({marks})", some))
        return [json.loads(found[key]) if key in found else None for key in keys]

    def starting(self, prefix: str) -> dict[str, Any]:
        """Stored values whose keys start so, by key, in the order in which they were stored."""
        rows = self._database.execute("SELECT key, value FROM replies WHERE substr(key, 1, ?) = ? ORDER BY rowid",
                                      (len(prefix), prefix))  # fmt: skip
        return {key: json.loads(value) for key, value in rows}

    def put(self, values: Iterable[tuple[str, Any]], usage: EngineUsage | None = None) -> None:
        """Stores (key, value) pairs in one commit; what is there already stays.

        Args:
            values: The pairs.
            usage: What they cost; added in the same commit to what earlier ones did, so that a kill loses neither.
        """
        rows = [(key, json.dumps(value, ensure_ascii=False)) for key, value in values]
        with self._database:
            self._database.executemany("INSERT OR IGNORE INTO replies VALUES (?, ?)", rows)
            if usage is not None:
                total = json.dumps((self.usage() + usage).as_dict())
                self._database.execute("INSERT OR REPLACE INTO usage VALUES ('total', ?)", (total,))

    def usage(self) -> EngineUsage:
        """What all stored replies cost, in all processes that wrote them."""
        row = self._database.execute("SELECT value FROM usage WHERE name = 'total'").fetchone()
        return EngineUsage() if row is None else EngineUsage.from_dict(json.loads(row[0]))

    def __len__(self) -> int:
        return int(self._database.execute("SELECT COUNT(*) FROM replies").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        self._database.close()


def _open_read_only(path: Path) -> sqlite3.Connection:
    """Opens a database without a trace in its folder: as a file that never changes, unless somebody is writing it."""
    still = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
    database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro{still}", uri=True)
    database.execute("SELECT key FROM replies LIMIT 1")
    return database


def content_key(**parts: Any) -> str:
    """Hash of everything that a reply depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def request_key(model: str, revision: str, request: ChoiceRequest | TextRequest) -> str:
    """Key of one engine request: model, revision, and all of the request (prompt, options or schema, sampling)."""
    return content_key(model=model, revision=revision, request=asdict(request))


class RecordingEngine(Engine):
    """An engine whose replies are stored; what is stored already is not asked again.

    Requests go to the engine in batches of at most :data:`COMMIT_REQUESTS`, with one commit each.

    Args:
        engine: The engine that answers what is not stored.
        store: Where replies are kept.
        model: Name of the model, part of the key; the engine's own by default.
        revision: Its revision, part of the key; the engine's own by default.
        on_commit: Called after every commit, for progress bars.

    Attributes:
        hits: Requests answered from the store.
        misses: Requests that the engine was asked.
    """

    def __init__(
        self,
        engine: Engine,
        store: ReplyStore,
        model: str | None = None,
        revision: str | None = None,
        on_commit: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self.store, self._on_commit = engine, store, on_commit
        self.model = engine.model if model is None else model
        self.revision = engine.revision if revision is None else revision
        self.special_tokens = engine.special_tokens
        self.hits = self.misses = 0

    @property
    def usage(self) -> EngineUsage:
        """What the stored replies cost, in this process and before, and how many requests the store answered here."""
        return self.store.usage() + EngineUsage(stored=self.hits)

    def _answer(
        self, requests: Sequence[Any], ask: Callable[[Sequence[Any]], Sequence[Any]], pack: Callable[[Any], Any]
    ) -> list[Any]:
        keys = [request_key(self.model, self.revision, request) for request in requests]
        known = self.store.get(keys)
        missing = [i for i, value in enumerate(known) if value is None]
        self.hits += len(requests) - len(missing)
        self.misses += len(missing)
        for start in range(0, len(missing), COMMIT_REQUESTS):
            batch = missing[start : start + COMMIT_REQUESTS]
            before = EngineUsage() + self.engine.usage
            try:
                fresh: Sequence[Any] = ask([requests[i] for i in batch])
            except InterruptedBatch as error:
                pairs = zip(batch, error.answers, strict=True)
                answered = [(keys[i], pack(answer)) for i, answer in pairs if answer is not None]
                self.store.put(answered, self.engine.usage.since(before))
                raise
            for i, value in zip(batch, fresh, strict=True):
                known[i] = pack(value)
            self.store.put([(keys[i], known[i]) for i in batch], self.engine.usage.since(before))
            self._on_commit()
        return known

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Log-probabilities, stored or asked."""
        replies = self._answer(requests, self.engine.choose, lambda reply: reply.tolist())
        return [np.asarray(reply, np.float64) for reply in replies]

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Completions, stored or asked."""
        return [Completion(**reply) for reply in self._answer(requests, self.engine.generate, _packed)]

    def close(self) -> None:
        """Closes the engine; the store belongs to whoever opened it."""
        self.engine.close()


class ReplayConfig(Config):
    """Settings of the replay engine."""

    replies: Path
    """A ``replies.sqlite``, or the run folder that holds one."""
    model: str = ""
    """The model whose replies are replayed."""
    revision: str = ""
    """Its revision."""


class ReplayEngine(Engine):
    """Answers from stored replies only; loads no model."""

    config_class = ReplayConfig

    def __init__(self, config: ReplayConfig) -> None:
        path = config.replies / "replies.sqlite" if config.replies.is_dir() else config.replies
        if not path.exists():
            raise EngineError(f"engine 'replay': {path} does not exist. Give a run folder that holds replies.sqlite.")
        super().__init__(config)
        self.model, self.revision = config.model, config.revision
        self.store = ReplyStore(path, read_only=True)
        self._recorder = RecordingEngine(_Nobody(path), self.store, config.model, config.revision)

    @property
    def usage(self) -> EngineUsage:
        """How many requests the store answered."""
        return EngineUsage(stored=self._recorder.hits)

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        """Stored log-probabilities.

        Raises:
            EngineError: If one is not stored; it says which.
        """
        return self._recorder.choose(requests)

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        """Stored completions.

        Raises:
            EngineError: If one is not stored; it says which.
        """
        return self._recorder.generate(requests)

    def close(self) -> None:
        """Closes the store."""
        self.store.close()


class _Nobody(Engine):
    """Stands where a replay has no model: every request that reaches it is unknown."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _refuse(self, requests: Sequence[ChoiceRequest] | Sequence[TextRequest]) -> EngineError:
        more = f" (and to {len(requests) - 1} more)" if len(requests) > 1 else ""
        return EngineError(
            f"engine 'replay': {self.path} holds no reply to {requests[0].key}{more}. Replay needs the same scenario, "
            "model and prompts as the recorded run."
        )

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[FloatArray]:
        raise self._refuse(requests)

    def generate(self, requests: Sequence[TextRequest]) -> list[Completion]:
        raise self._refuse(requests)

    def close(self) -> None:
        return None


def _packed(completion: Completion) -> dict[str, Any]:
    """A completion as it is stored: its tokens are of use only to whoever trains."""
    plain = asdict(completion)
    del plain["token_ids"]
    return plain


def stored_slate(
    store: ReplyStore, policy: str, seed: int, obs: ObservationBatch, serve: Callable[[ObservationBatch], SlateBatch]
) -> SlateBatch:
    """Slates of a policy that is not repeatable: stored ones where there are any, fresh and stored at once elsewhere.

    Args:
        store: Where slates are kept.
        policy: Label of the policy, part of the key.
        seed: The run's seed, part of the key.
        obs: Observations of N users.
        serve: Asks the policy.
    """
    columns = zip(obs.user_index, obs.day, obs.session, obs.turn, strict=True)
    keys = [content_key(slate=policy, seed=seed, at=[int(x) for x in at]) for at in columns]
    rows = store.get(keys)
    missing = [i for i, row in enumerate(rows) if row is None]
    if missing:
        fresh = _slate_rows(serve(obs.take(np.array(missing))))
        for i, row in zip(missing, fresh, strict=True):
            rows[i] = row
        store.put((keys[i], rows[i]) for i in missing)
    return SlateBatch(
        items=np.array([row["items"] for row in rows], np.int32),
        propensity=_numbers(rows, "propensity"),
        position_propensity=_numbers(rows, "position_propensity"),
        policy=rows[0]["policy"],
        version=rows[0]["version"],
        answer=[row["answer"] for row in rows],
        searched=np.array([row["searched"] for row in rows], np.bool_),
    )


def _slate_rows(slate: SlateBatch) -> list[Mapping[str, Any]]:
    answer = slate.answer or [None] * slate.n
    searched = np.zeros(slate.n, np.bool_) if slate.searched is None else slate.searched
    return [
        {
            "items": slate.items[i].tolist(),
            "propensity": slate.propensity[i].tolist(),
            "position_propensity": slate.position_propensity[i].tolist(),
            "policy": slate.policy,
            "version": slate.version,
            "answer": answer[i],
            "searched": bool(searched[i]),
        }
        for i in range(slate.n)
    ]


def _numbers(rows: list[Any], name: str) -> FloatArray:
    return np.array([row[name] for row in rows], np.float32)
