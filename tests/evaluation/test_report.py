import copy
import re
from html.parser import HTMLParser

import pandas as pd
import pyarrow as pa
import pytest

from recsim_env.errors import RunFolderError
from recsim_env.evaluation.reading import read_off
from recsim_env.evaluation.story import message_counts, tell_session
from recsim_env.evaluation.summary import evaluate, summary_table
from recsim_env.report import write_report
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
    for heading in ("What to read off", "Differences from popularity", "One session", "What was said", "Honest limits"):
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
    story = tell_session(fake_run, evaluation.world)
    assert story == tell_session(fake_run, evaluation.world)
    turns = fake_run.tables["turns"].query(
        "recommender == @story.recommender and seed == @story.seed and user == @story.user and day == @story.day"
    )
    assert len(turns) == len(story.pages) >= 2
    assert [page.next_message is not None for page in story.pages] == turns.next_message.notna().tolist()
    assert any(page.next_message for page in story.pages)
    shown = fake_run.tables["impressions"].query(
        "recommender == @story.recommender and seed == @story.seed and user == @story.user and day == @story.day"
    )
    assert [i.clicked for page in story.pages for i in page.items] == shown.clicked.tolist()
    assert [i.title for page in story.pages for i in page.items] == fake_run.items.title[shown["item"]].tolist()
    assert story.profile.keys() == {"gender"}


def test_message_counts(fake_run):
    counts = message_counts(fake_run, evaluate(fake_run).world)
    turns = fake_run.tables["turns"]
    for name, part in turns.groupby("recommender", observed=True):
        assert counts.loc[name].tolist() == [len(part), 0, (part.next_action == 2).sum(), part.answer.notna().sum(), 0]


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
