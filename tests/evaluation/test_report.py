import copy
import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pyarrow as pa
import pytest

from recsim_env.errors import RunFolderError
from recsim_env.evaluation.choice import tell_stories
from recsim_env.evaluation.reading import read_off
from recsim_env.evaluation.said import KINDS, message_counts, sample_messages
from recsim_env.evaluation.summary import evaluate, summary_table
from recsim_env.report import write_report
from recsim_env.report_engine import language_model
from recsim_env.report_parts import messages
from recsim_env.rundir import CellWriter, RunFolder, load_run

VOID = {"meta", "img", "br"}


class Checker(HTMLParser):
    """Collects text, tags and sources; fails on tags that do not match."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.sources, self.words = [], set(), [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def report(fake_run, tmp_path_factory):
    path = write_report([fake_run], tmp_path_factory.mktemp("report") / "report.html")
    return path, Checker(path.read_text(encoding="utf-8"))


def test_page_is_whole_and_needs_nothing_else(report):
    path, page = report
    assert len(page.sources) == 8
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "http" not in re.sub(r"base64,[^\"]+|http-equiv", "", path.read_text(encoding="utf-8"))
    assert {p.stem for p in (path.parent / "plots").iterdir()} == {
        "engagement", "retention", "ndcg_retention", "coverage", "lorenz", "genre_entropy", "stars", "mindset",
    }  # fmt: skip
    text = " ".join(page.words)
    for heading in (
        "What to read off",
        "Differences from popularity",
        "Sessions, page by page",
        "What was said",
        "Honest limits",
    ):
        assert heading in text


def test_untrusted_text_is_escaped(report):
    _, page = report
    text = " ".join(page.words)
    assert not page.tags & {"script", "i", "u", "users", "cpu"}
    for words in ("Made-up <users>.", "Test <CPU>", "<script>alert('x')</script> & Co"):
        assert words in text


def test_figures_stand_in_the_table(report, fake_run):
    text = " ".join(report[1].words)
    table = summary_table(fake_run)
    for name in table.index:
        assert f"{table.retention[name]:.3f}" in text
        assert f"{table.coverage_low[name]:.3f} to {table.coverage_high[name]:.3f}" in text


def test_complete_run_has_no_banner(report):
    assert "not complete" not in " ".join(report[1].words)


def test_failed_run_shows_a_banner(fake_run, tmp_path):
    failed = copy.copy(fake_run)
    record = {"status": "failed", "error": "EngineError: <b>no</b>", "cells": fake_run.manifest["cells"][:2]}
    failed.manifest = {**fake_run.manifest, **record}
    page = Checker(write_report([failed], tmp_path).read_text(encoding="utf-8"))
    text = " ".join(page.words)
    assert "status: failed" in text
    assert "2 of 6 combinations" in text
    assert "EngineError: <b>no</b>" in text
    assert "Differences from" not in text  # one recommender is left


def test_several_runs_on_one_page(fake_run, run_maker, tmp_path):
    other = run_maker(tmp_path / "other", recommenders=("uniform",), seeds=(3,), n_users=15, days=3)
    path = write_report([fake_run, other], tmp_path / "compare.html")
    text = " ".join(Checker(path.read_text(encoding="utf-8")).words)
    assert path.name == "compare.html"
    for name in (f"{fake_run.path.name}/ease", "other/uniform"):
        assert name in text
    assert "not paired" in text


def test_the_smallest_run(run_maker, tmp_path):
    """One user, one day: nothing has an interval, nothing fails."""
    tiny = run_maker(tmp_path, recommenders=("uniform",), seeds=(0,), n_users=1, days=1)
    tiny.manifest["cells"][0]["offline"] = None
    text = " ".join(Checker(write_report([tiny]).read_text(encoding="utf-8")).words)
    assert (tmp_path / "report.html").exists()
    assert "nDCG offline" in text
    assert "nan" not in text.split()


def test_empty_run_is_refused(fake_run, tmp_path):
    empty = copy.copy(fake_run)
    empty.tables = {name: frame.iloc[:0] for name, frame in fake_run.tables.items()}
    with pytest.raises(RunFolderError, match="no sessions"):
        write_report([empty], tmp_path)
    with pytest.raises(RunFolderError, match="at least one run"):
        write_report([], tmp_path)


def test_unwritable_place(fake_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="Cannot write the report"):
        write_report([fake_run], tmp_path / "file" / "report.html")


def test_story_is_what_the_tables_say(fake_run):
    evaluation = evaluate(fake_run)
    stories = tell_stories(fake_run, evaluation.world)
    assert stories == tell_stories(fake_run, evaluation.world)
    for story in stories:
        person, visit = story.person, story.visit
        where = "recommender == @person.recommender and seed == @person.seed and user == @person.user"
        turns = fake_run.tables["turns"].query(f"{where} and day == @visit.day")
        assert len(turns) == len(visit.pages) >= 2
        assert [page.next_message is not None for page in visit.pages] == turns.next_message.notna().tolist()
        assert any(page.next_message for page in visit.pages)
        shown = fake_run.tables["impressions"].query(f"{where} and day == @visit.day")
        assert [i.clicked for page in visit.pages for i in page.items] == shown.clicked.tolist()
        assert [i.title for page in visit.pages for i in page.items] == fake_run.items.title[shown["item"]].tolist()
        comments = [text if isinstance(text, str) else None for text in shown.comment]
        assert [i.comment for page in visit.pages for i in page.items] == comments
        assert person.profile.keys() == {"gender"}
        assert person.user_id == fake_run.users.query("seed == @person.seed").user_id.iloc[person.user]


def test_sessions_are_of_different_people_and_recommenders(fake_run, run_maker, tmp_path):
    stories = tell_stories(fake_run, evaluate(fake_run).world)
    assert len({story.person.user_id for story in stories}) == len({s.person.recommender for s in stories}) == 3
    two = run_maker(tmp_path, recommenders=("uniform",), seeds=(0,), n_users=2, days=2)
    assert [s.person.recommender for s in tell_stories(two, evaluate(two).world)] == ["uniform", "uniform"]


def test_the_first_session_is_open_and_the_others_are_folded(report):
    path, page = report
    text = path.read_text(encoding="utf-8")
    sessions = text[text.index("Sessions, page by page") : text.index("What was said")]
    assert sessions.count("<details>") == sessions.count("<summary>") == 2
    assert sessions.index('class="page"') < sessions.index("<details>")
    assert "details" in page.tags


def test_message_counts(fake_run):
    counts = message_counts(fake_run, evaluate(fake_run).world)
    turns, impressions = fake_run.tables["turns"], fake_run.tables["impressions"]
    for name, part in turns.groupby("recommender", observed=True):
        comments = int(impressions[impressions.recommender == name].comment.notna().sum())
        assert comments > 0
        assert counts.loc[name].to_dict() == {
            "pages": len(part), "searches": 0, "instructions": (part.next_action == 2).sum(),
            "answers": part.answer.notna().sum(), "comments": comments, "chats": 4, "posts": 2, "fallbacks": 0,
        }  # fmt: skip


def test_counts_stand_in_the_report(report, fake_run):
    text = " ".join(report[1].words)
    counts = message_counts(fake_run, evaluate(fake_run).world)
    for name, row in counts.iterrows():
        assert f"{name} " + " ".join(f"{n:,}" for n in row) in text


def test_samples_are_drawn_evenly_and_always_the_same(fake_run):
    world = evaluate(fake_run).world
    samples = sample_messages(fake_run, world)
    assert samples == sample_messages(fake_run, world)
    by_kind = pd.Series([s.kind for s in samples]).value_counts()
    # Everybody instructs, answers and comments in the same words; chats and posts differ, so they fill the rest.
    assert by_kind.to_dict() == {"instruct": 1, "answer": 1, "comment": 1, "chat": 5, "post": 4}
    for kind in ("chat", "post"):
        assert {s.recommender for s in samples if s.kind == kind} == set(world.recommenders)
    assert [KINDS.index(s.kind) for s in samples] == sorted(KINDS.index(s.kind) for s in samples)
    assert len(sample_messages(fake_run, world, 4)) == 4
    chat = next(s for s in samples if s.kind == "chat")
    assert (chat.day, chat.turn) == (1, -1)
    assert {chat.speaker, chat.to} == {"user 0", "user 1"}
    assert next(s for s in samples if s.kind == "post").to == "3 friends"
    answer = next(s for s in samples if s.kind == "answer")
    assert (answer.speaker, answer.to.split()[0]) == (answer.recommender, "user")


def test_hostile_messages_are_escaped_and_cut(fake_run, report):
    _, page = report
    assert "em" not in page.tags
    assert "</div><em>chat</em> of" in " ".join(page.words)
    sample = sample_messages(fake_run, evaluate(fake_run).world)[0]
    long = replace(sample, speaker="<script>", to="<b>", recommender="<u>", text="<img src=x>" * 200)
    shown = Checker(messages([long]))
    assert not shown.tags & {"script", "u", "img"}
    assert 300 < len(" ".join(shown.words)) < 450


def test_users_are_called_by_their_names(fake_run):
    named = copy.copy(fake_run)
    named.users = fake_run.users.assign(name=["Ann" if i % 2 else "" for i in range(len(fake_run.users))])
    chats = [s for s in sample_messages(named, evaluate(named).world) if s.kind == "chat"]
    assert {chats[0].speaker, chats[0].to} == {"user 0", "Ann"}


ENGINE = {
    "name": "scripted", "model": "a<b>", "revision": "r1", "embedder": {"name": "letters", "size": 3}, "calls": 250,
    "tokens": 900, "failures": 3,
    "usage": {"requests": {"choose": 200, "generate": 50}, "stored": 7, "prompt_tokens": 10_000, "cached_tokens": 7_500,
              "generated_tokens": 1_000, "seconds": 5.0, "retries": 2, "failures": {"invalid_schema": 3}},
    "users": {"asked": {"decisions": 200, "watch": 200, "words": 50, "search": 40, "comment": 10, "<i>new": 0},
              "failed": {"words": 2, "search": 2}, "last_bad_replies": ["search: <script>x</script>"],
              "prompts": {"watch": "1-abc", "<u>": "2"}},
}  # fmt: skip


def test_the_language_model_has_a_section(fake_run, tmp_path):
    run = copy.copy(fake_run)
    run.manifest = {**fake_run.manifest, "engine": ENGINE}
    page = Checker(write_report([run], tmp_path).read_text(encoding="utf-8"))
    text, n = " ".join(page.words), len(run.tables["turns"])
    assert not page.tags & {"i", "u", "script", "em"}
    for words in (
        "The language model", "a<b>, revision r1", "letters (size 3)",
        "250 answered by the model (200 decisions, 50 words)", "7 more",
        "10,000, of which 75% stood in an earlier prompt's start", "Tokens written 1,000",
        f"{250 / n:,.1f} requests, {11_000 / n:,.0f} tokens (prompt and written); {n:,} user-turns",
        "5.0 s, 50.0 requests per second", "Retries of the engine 2", "3 invalid schema", "watch 1-abc, <u> 2",
        "Search words 40 2 5.00%", "All words 50 2 4.00%", "Watch or skip 200 0 0.00%", "<i>new 0 0 –",
        "search: <script>x</script>",
    ):  # fmt: skip
        assert words in text


def without(section, gone):
    return {name: value for name, value in section.items() if name != gone}


@pytest.mark.parametrize(
    ("engine", "shown"),
    [
        (None, False),
        ({"calls": 0, "tokens": 0, "failures": 0}, False),
        ({**ENGINE, "calls": 0, "usage": {"requests": {}, "stored": 0}}, False),
        ({"calls": 5, "tokens": 10, "failures": 1}, True),
        ({"name": "replay", "calls": 0, "usage": {"requests": {}, "stored": 9, "seconds": 0.0}}, True),
        ({**ENGINE, "usage": None, "users": None, "embedder": None, "revision": None}, True),
        *[(without(ENGINE, gone), True) for gone in ENGINE],
        *[({**ENGINE, "usage": without(ENGINE["usage"], gone)}, True) for gone in ENGINE["usage"]],
        *[({**ENGINE, "users": without(ENGINE["users"], gone)}, True) for gone in ENGINE["users"]],
    ],
)  # fmt: skip
@pytest.mark.parametrize("n_turns", [0, 10])
def test_absent_keys_are_left_out(engine, shown, n_turns):
    part = language_model({} if engine is None else {"engine": engine}, n_turns)
    assert bool(part) == shown
    Checker(part)
    assert "None" not in part


def test_sentences_admit_a_tie(fake_run):
    twin = copy.copy(fake_run)
    twin.tables = {}
    for name, frame in fake_run.tables.items():
        ease = frame[frame.recommender == "ease"]
        twin.tables[name] = pd.concat([ease.assign(recommender=x) for x in ("one", "two")], ignore_index=True)
    twin.manifest = {**fake_run.manifest, "cells": []}
    evaluation = evaluate(twin)
    text = " ".join(read_off(evaluation, evaluation.table()))
    assert "does not tell one from two" in text
    clear = evaluate(fake_run)
    text = " ".join(read_off(clear, clear.table()))
    assert "highest under ease" in text
    assert "an interval without 0" in text


def test_a_real_run_folder_gives_the_same(fake_run, tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        for name, seed in [(c["recommender"], c["seed"]) for c in fake_run.manifest["cells"]]:
            writer = CellWriter(folder, name, seed)
            for table, frame in fake_run.tables.items():
                part = frame[(frame.recommender == name) & (frame.seed == seed)]
                columns = {c: part[c].to_numpy() for c in part if c not in ("recommender", "seed", "policy", "version")}
                columns = {c: v.tolist() if v.dtype == object else v for c, v in columns.items()}
                if "policy" in part:
                    columns["policy"] = (part.policy.cat.codes.to_numpy(), part.policy.cat.categories.tolist())
                writer.add(table, len(part), columns)
            writer.commit(10, done=True)
        for table in ("users", "items"):
            folder.write_frame(f"{table}.parquet", pa.Table.from_pandas(getattr(fake_run, table), preserve_index=False))
        folder.write_json("manifest.json", fake_run.manifest)
    run = load_run(tmp_path / "run")
    pd.testing.assert_frame_equal(summary_table(run), summary_table(fake_run), rtol=1e-5)
    assert write_report([run]) == tmp_path / "run" / "report.html"
