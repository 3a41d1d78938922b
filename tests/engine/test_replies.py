"""Stored replies: exact hits only, one commit a batch, replay without a model."""

from collections import Counter

import numpy as np
import pytest

from recsim_env.engine.base import EngineUsage, InterruptedBatch
from recsim_env.engine.replies import (
    RecordingEngine,
    ReplayConfig,
    ReplayEngine,
    ReplyStore,
    content_key,
    request_key,
)
from recsim_env.errors import EngineError, RunFolderError
from recsim_env.interfaces import Engine
from recsim_env.records import ChoiceRequest, Completion, RequestKey, TextRequest


class Counting(Engine):
    """Answers from the request's own content and counts what it is asked."""

    def __init__(self):
        self.asked = []

    def choose(self, requests):
        self.asked += requests
        weights = [np.array([len(r.messages[0]["content"]) + i + 1.0 for i in range(len(r.options))]) for r in requests]
        return [np.log(w / w.sum()) for w in weights]

    def generate(self, requests):
        self.asked += requests
        return [Completion(text=r.messages[-1]["content"].upper(), parsed={"n": 1}, tokens=3) for r in requests]

    def close(self):
        pass


def choice(prompt="Watch it?", user=1, options=("A", "B")):
    return ChoiceRequest(
        ({"role": "user", "content": prompt},),
        options,
        RequestKey(seed=0, user=user, day=2, session=0, turn=3, purpose="watch"),
    )


def text(content="hello"):
    return TextRequest(({"role": "user", "content": content},), RequestKey(0, 1, 2, 0, 3, purpose="words"))


def test_each_request_is_asked_once_and_answers_keep_their_order(tmp_path):
    engine = Counting()
    recording = RecordingEngine(engine, ReplyStore(tmp_path / "replies.sqlite"), "model")
    first = recording.choose([choice("a"), choice("bbb")])
    again = recording.choose([choice("bbb"), choice("new"), choice("a")])
    assert [r.messages[0]["content"] for r in engine.asked] == ["a", "bbb", "new"]
    np.testing.assert_array_equal(again[0], first[1])
    np.testing.assert_array_equal(again[2], first[0])
    reply = recording.generate([text()])[0]
    assert recording.generate([text()])[0] == reply
    assert reply.text == "HELLO"
    assert reply.parsed == {"n": 1}


def test_replay_answers_from_the_file_alone_and_names_what_is_missing(tmp_path):
    store = ReplyStore(tmp_path / "replies.sqlite")
    recorded = RecordingEngine(Counting(), store, "model", "r1").choose([choice()])
    store.close()
    replay = ReplayEngine(ReplayConfig(replies=tmp_path, model="model", revision="r1"))
    np.testing.assert_array_equal(replay.choose([choice()])[0], recorded[0])
    with pytest.raises(EngineError, match=r"no reply to RequestKey\(seed=0, user=9"):
        replay.choose([choice(user=9)])
    with pytest.raises(EngineError, match="holds no reply"):
        replay.generate([text()])
    other = ReplayEngine(ReplayConfig(replies=tmp_path, model="another", revision="r1"))
    with pytest.raises(EngineError, match="same scenario, model and prompts"):
        other.choose([choice()])


@pytest.mark.parametrize(
    "other",
    [choice("Watch it ?"), choice(user=2), choice(options=("B", "A")), text("Watch it?")],
    ids=["prompt", "user", "options", "kind"],
)
def test_every_part_of_the_request_is_in_the_key(other):
    assert request_key("m", "", choice()) != request_key("m", "", other)
    assert request_key("m", "", choice()) != request_key("m2", "", choice())
    assert request_key("m", "", choice()) != request_key("m", "r", choice())
    assert request_key("m", "", choice()) == request_key("m", "", choice())


def test_store_survives_reopening_and_keeps_the_first_value(tmp_path):
    store = ReplyStore(tmp_path / "r.sqlite")
    store.put([("k", {"a": 1}), ("l", "ü")])
    store.put([("k", {"a": 2})])
    store.close()
    store = ReplyStore(tmp_path / "r.sqlite")
    assert store.get(["l", "none", "k"]) == ["ü", None, {"a": 1}]
    assert len(store) == 2
    many = [content_key(i=i) for i in range(1201)]  # more than one query's worth
    store.put((k, i) for i, k in enumerate(many))
    assert store.get(many[::-1]) == list(range(1201))[::-1]


def test_bad_files_are_refused(tmp_path):
    (tmp_path / "replies.sqlite").write_text("this is no database, it is a text of some length" * 50)
    with pytest.raises(RunFolderError, match="Cannot open the stored replies"):
        ReplyStore(tmp_path / "replies.sqlite")
    with pytest.raises(EngineError, match="does not exist"):
        ReplayEngine(ReplayConfig(replies=tmp_path / "nothing.sqlite"))


def test_hits_misses_and_the_cost_of_all_processes_are_told(tmp_path):
    class Costly(Counting):
        def choose(self, requests):
            self.usage.prompt_tokens += 5 * len(requests)
            self.usage.requests["choose"] += len(requests)
            return super().choose(requests)

    for process, asked in enumerate(("ab", "bc")):
        store = ReplyStore(tmp_path / "r.sqlite")
        recording = RecordingEngine(Costly(), store)
        recording.choose([choice(c) for c in asked])
        assert (recording.hits, recording.misses) == (process, 2 - process)
        told = recording.usage
        store.close()
    assert told == EngineUsage(Counter(choose=3), prompt_tokens=15, stored=1)


def test_large_batches_are_cut_into_commits(tmp_path, monkeypatch):
    monkeypatch.setattr("recsim_env.engine.replies.COMMIT_REQUESTS", 20)
    beats, store = [], ReplyStore(tmp_path / "r.sqlite")
    recording = RecordingEngine(Counting(), store, on_commit=lambda: beats.append(len(store)))
    expected = Counting().choose([choice(f"{u}") for u in range(50)])
    np.testing.assert_array_equal(recording.choose([choice(f"{u}") for u in range(50)]), expected)
    assert beats == [20, 40, 50]


def test_a_replay_leaves_the_store_as_it_was(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    store = ReplyStore(folder / "replies.sqlite")
    RecordingEngine(Counting(), store).choose([choice()])
    store.close()
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    folder.chmod(0o500)
    replay = ReplayEngine(ReplayConfig(replies=folder))
    assert len(replay.choose([choice()])) == 1
    replay.close()
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    folder.chmod(0o700)


def test_model_and_revision_are_the_engines_own(tmp_path):
    engine, store = Counting(), ReplyStore(tmp_path / "r.sqlite")
    engine.model, engine.revision, engine.special_tokens = "m", "r", ("</s>",)
    recording = RecordingEngine(engine, store)
    assert (recording.model, recording.revision, recording.special_tokens) == ("m", "r", ("</s>",))
    recording.choose([choice()])
    assert store.get([request_key("m", "r", choice())]) != [None]


def test_a_resumed_run_asks_only_for_what_is_not_stored(tmp_path):
    path = tmp_path / "r.sqlite"
    first = RecordingEngine(Counting(), ReplyStore(path))
    before = first.choose([choice(user=u) for u in range(5)])
    first.store.close()
    engine = Counting()
    resumed = RecordingEngine(engine, ReplyStore(path))
    after = resumed.choose([choice(user=u) for u in range(8)])
    assert [r.key.user for r in engine.asked] == [5, 6, 7]
    np.testing.assert_array_equal(after[:5], before)
    replay = ReplayEngine(ReplayConfig(replies=tmp_path / "r.sqlite"))
    np.testing.assert_array_equal(replay.choose([choice(user=u) for u in range(8)]), after)
    assert replay.usage.stored == 8


def test_what_came_before_an_interruption_is_kept(tmp_path):
    class Breaking(Counting):
        def choose(self, requests):
            answers = super().choose(requests)
            raise InterruptedBatch("the endpoint went away", [*answers[:2], None])

    store = ReplyStore(tmp_path / "r.sqlite")
    with pytest.raises(InterruptedBatch, match="went away"):
        RecordingEngine(Breaking(), store).choose([choice(user=u) for u in range(3)])
    engine = Counting()
    assert len(RecordingEngine(engine, store).choose([choice(user=u) for u in range(3)])) == 3
    assert [r.key.user for r in engine.asked] == [2]


def test_a_batch_is_one_commit(tmp_path):
    store = ReplyStore(tmp_path / "r.sqlite")
    statements = []
    store._database.set_trace_callback(statements.append)
    RecordingEngine(Counting(), store).choose([choice(user=u) for u in range(50)])
    assert sum(statement.startswith("COMMIT") for statement in statements) == 1


def test_replies_that_are_no_numbers_come_back_as_such(tmp_path):
    class NotANumber(Counting):
        def choose(self, requests):
            return [np.array([np.nan, -np.inf]) for _ in requests]

    store = ReplyStore(tmp_path / "r.sqlite")
    RecordingEngine(NotANumber(), store).choose([choice()])
    np.testing.assert_array_equal(RecordingEngine(Counting(), store).choose([choice()])[0], [np.nan, -np.inf])
