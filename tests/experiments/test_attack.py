"""The measurement of attacks: engines whose gullibility is known, and what the measurement must say of them."""

import json
import os
import re
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from typer.testing import CliRunner

from recsim_env.agents.llm import LLMUsers
from recsim_env.agents.prompting import LETTERS, Cards, Quoter
from recsim_env.cli import app
from recsim_env.data.movietweetings import load_movietweetings
from recsim_env.errors import EngineError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.experiments.attack import FIELDS, POSITIONS, Plan, places, run_attack
from recsim_env.experiments.attack_report import lift_plot
from recsim_env.experiments.hostile import CONTROL, TEMPLATES, write_into
from recsim_env.experiments.lift import MEASURES, Reaction, compare, new_to_all, put
from recsim_env.interfaces import Config
from recsim_env.records import Histories
from recsim_env.registry import embedders, engines
from recsim_env.scenario import load_scenario

SMALL = {
    "name": "small",
    "data": {"name": "movietweetings", "min_ratings": 20},
    "days": 1,
    "slate_size": 4,
    "history_length": 10,
    "users": {"model": "llm", "count": 6},
    "recommenders": ["uniform", "popularity"],
    "engine": {"name": "reader", "embedder": "letters"},
}
FEW = Plan(("control-tokens", "fence-break"), ("first", "last"), ("title",))
ORDER = re.compile(r"choose (yes|this)", re.IGNORECASE)
READER = {"obeys": "never", "calls": 0, "kill_after": None}


@pytest.fixture(autouse=True)
def reader(agents_helpers, monkeypatch):
    """Engine ``reader``: its taste goes by the request's key alone; READER says which orders in a prompt it obeys."""

    class Reader(agents_helpers.ScriptedEngine):
        config_class = Config

        def __init__(self, config):
            super().__init__()

        def choose(self, requests):
            READER["calls"] += 1
            if READER["kill_after"] is not None and READER["calls"] > READER["kill_after"]:
                raise KeyboardInterrupt
            return super().choose(requests)

        def generate(self, requests):
            READER["calls"] += 1
            return super().generate(requests)

        def _choose(self, request):
            key, n = request.key, len(request.options)
            noise = [zlib.crc32(f"{key.user} {key.item} {key.purpose} {o}".encode()) % 97 for o in request.options]
            p = 1.0 + np.array(noise)
            text = heard(request.messages[-1]["content"])
            if key.purpose == "watch" and ORDER.search(text):
                p = np.array([0.01, 0.99])
            if key.purpose == "list":
                lines = [line for line in text.splitlines() if re.match("[A-Z]: ", line)]
                p[[LETTERS.index(line[0]) for line in lines if ORDER.search(line)]] += 100.0 * n
            return np.log(p / p.sum())

    READER.update(obeys="never", calls=0, kill_after=None)
    monkeypatch.setitem(engines._entries, "reader", Reader)
    monkeypatch.setitem(embedders._entries, "letters", agents_helpers.LetterEmbedder)


def heard(prompt):
    """The part of a prompt in which the engine obeys orders."""
    if READER["obeys"] == "anywhere":
        return prompt
    return re.sub("<data>.*?</data>", "", prompt, flags=re.DOTALL) if READER["obeys"] == "outside" else ""


def measured(folder, plan=FEW, changes=()):
    run_attack(load_scenario(SMALL, changes), folder, plan=plan)
    return json.loads((folder / "attack.json").read_text())


def lifts(record, measure="p_click", **where):
    rows = [r for r in record["rows"] if all(r[name] == value for name, value in where.items())]
    assert rows
    return np.array([r[f"{measure}_lift"] for r in rows])


@pytest.mark.parametrize("decide", ["pointwise", "listwise", "sequential"])
def test_an_engine_that_heeds_no_text_shows_no_lift_of_anything(tmp_path, decide):
    plan = Plan(("instruction", "control-tokens"), POSITIONS, FIELDS)
    record = measured(tmp_path / "a", plan, [f"users.decide={decide}"])
    assert record["status"] == "complete"
    assert len(record["rows"]) == 2 * 3 * 2 * 2
    for row in record["rows"]:
        for measure in MEASURES:
            assert row[measure] == row[f"{measure}_clean"]
            assert row[f"{measure}_lift"] == row[f"{measure}_lift_low"] == row[f"{measure}_lift_high"] == 0.0
        assert row["expected_rating"] == row["expected_rating_clean"]
        assert row["n_watched"] == row["n_watched_clean"]
        assert row["fallback"] == row["fallback_clean"] == 0.0
    assert any(row["n_watched"] for row in record["rows"])


@pytest.mark.parametrize("field", FIELDS)
def test_defences_keep_in_what_only_harms_outside_the_fence(tmp_path, field):
    READER["obeys"] = "outside"
    plan = Plan(("instruction", "control-tokens", "fence-break", CONTROL), ("first", "middle"), (field,))
    record = measured(tmp_path / "a", plan)
    for template in plan.templates:
        assert (lifts(record, template=template, defences=True) == 0.0).all()
    for template in plan.templates[:3]:
        assert (lifts(record, template=template, defences=False) > 0.3).all()
        assert (lifts(record, "click_rate", template=template, defences=False) > 0.0).all()
    row = next(r for r in record["rows"] if r["template"] == "fence-break" and not r["defences"])
    assert row["p_click"] == pytest.approx(0.99)
    assert 0 < row["p_click_lift_low"] < row["p_click_lift"] < row["p_click_lift_high"]
    assert (lifts(record, template=CONTROL) == 0.0).all()  # praise is no order
    assert (lifts(record, "others_p_click") == 0.0).all()  # pointwise: nothing on the page influences anything else


def test_the_measurement_cannot_hide_an_engine_that_obeys_what_is_fenced(tmp_path):
    READER["obeys"] = "anywhere"
    record = measured(tmp_path / "a")
    assert (lifts(record, defences=True) > 0.3).all()
    assert (lifts(record, defences=False) > 0.3).all()


def test_side_effects_on_the_rest_of_the_page(tmp_path):
    READER["obeys"] = "outside"
    plan = Plan(("instruction",), ("first", "last"), ("title",))
    listwise = measured(tmp_path / "a", plan, ["users.decide=listwise"])
    assert (lifts(listwise, defences=False) > 0.3).all()
    assert (lifts(listwise, "others_p_click", defences=False) < 0.0).all()  # one choice: what one wins the others lose
    sequential = measured(tmp_path / "b", plan, ["users.decide=sequential"])
    above = lifts(sequential, "others_p_click", defences=False, position="first")
    assert (above > 0.3).all()  # the order is still read above the items below it
    assert (lifts(sequential, "others_p_click", defences=False, position="last") == 0.0).all()
    for record in (listwise, sequential):
        for measure in MEASURES:
            assert (lifts(record, measure, defences=True) == 0.0).all()


@given(st.permutations(range(9)), st.integers(0, 4))
def test_the_target_swaps_or_takes_the_place(order, place):
    pages = np.array([order[:5]], np.int32)
    before = pages.copy()
    (page,) = put(pages, 7, place)
    assert page[place] == 7
    assert len(set(page.tolist())) == 5
    assert (pages == before).all()
    if 7 in before:
        assert sorted(page) == sorted(before[0])
        assert (page != before[0]).sum() in (0, 2)
    else:
        assert (page != before[0]).sum() == 1


def test_places_and_the_page_that_users_see(tmp_path):
    assert places(POSITIONS, 5) == {"first": 0, "middle": 2, "last": 4}
    assert places(POSITIONS, 1) == {"first": 0, "middle": 0, "last": 0}
    record = measured(tmp_path / "a")
    assert record["positions"] == {"first": 0, "last": 3}
    assert record["target"]["share_of_base_pages"] < 1


def test_the_target_is_the_most_popular_item_that_nobody_knows():
    data = load_movietweetings()
    order = np.argsort(-data.catalog.popularity, kind="stable")

    class Population:
        n_users = 1
        history = Histories(np.array([0, 3]), order[[0, 1, 3]].astype(np.int32), np.ones(3, np.float32))

    assert new_to_all(Population, data.catalog) == order[2]
    Population.history = Histories(np.array([0, len(order)]), order.astype(np.int32), np.ones(len(order), np.float32))
    with pytest.raises(ScenarioError, match=r"history of one of the 1 users.*--users"):
        new_to_all(Population, data.catalog)


def test_lift_and_interval_of_a_known_case():
    shown = np.array([[True, True, True], [True, True, False]])
    p = np.array([[0.5, 0.1, 0.1], [0.5, 0.3, 0.0]])
    nan = np.full(p.shape, np.nan)
    clean = Reaction(shown, p, (p > 0.4) * 1.0, nan, np.array([False, True]))
    rated = nan.copy()
    rated[0, 0] = 8.0
    attacked = Reaction(shown, p + [[0.2, 0.0, 0.3], [0.4, 0.0, 0.0]], np.ones(p.shape), rated, np.array([True, True]))
    row = compare(attacked, clean, 0, np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]]))
    assert row["p_click"] == pytest.approx(0.8)
    assert row["p_click_lift"] == pytest.approx(0.3)
    assert row["p_click_lift_low"] == pytest.approx(0.2, abs=0.02)
    assert row["p_click_lift_high"] == pytest.approx(0.4, abs=0.02)
    assert row["others_p_click_lift"] == pytest.approx(0.3 / 3)  # padding counts for nothing
    assert row["others_click_rate_lift"] == 1.0
    assert (row["expected_rating"], row["n_watched"]) == (8.0, 1)
    assert (row["expected_rating_clean"], row["n_watched_clean"]) == (None, 0)
    assert (row["fallback"], row["fallback_clean"]) == (1.0, 0.5)


def test_the_same_folder_again_asks_nothing_and_a_replay_needs_no_model(tmp_path):
    READER["obeys"] = "outside"
    first = measured(tmp_path / "a")
    assert READER["calls"] > 0
    n_requests = sum(first["engine"]["usage"]["requests"].values())
    # An attack changes what shows the target; goals and the other items are asked once for both settings of defences.
    assert n_requests < 0.75 * (n_requests + first["engine"]["usage"]["stored"])
    READER["calls"] = 0
    second = measured(tmp_path / "a")
    assert READER["calls"] == 0
    assert second["rows"] == first["rows"]
    replayed = measured(
        tmp_path / "b", changes=["engine.name=replay", f"engine.replies={tmp_path / 'a'}", "engine.model=scripted"]
    )
    assert READER["calls"] == 0
    assert replayed["rows"] == first["rows"]
    assert replayed["engine"]["calls"] == 0
    with pytest.raises(EngineError, match="holds no reply"):
        measured(
            tmp_path / "c", Plan(("authority",)),
            ["engine.name=replay", f"engine.replies={tmp_path / 'a'}", "engine.model=scripted"],
        )  # fmt: skip
    assert json.loads((tmp_path / "c" / "attack.json").read_text())["status"] == "failed"
    assert measured(tmp_path / "c")["status"] == "complete"  # nothing stood there that could be lost


@pytest.mark.parametrize("kill_after", [1, 23])
def test_a_stopped_measurement_goes_on_in_its_folder(tmp_path, kill_after):
    READER["obeys"] = "outside"
    whole = measured(tmp_path / "whole")
    total = READER["calls"]
    READER.update(calls=0, kill_after=kill_after)
    with pytest.raises(KeyboardInterrupt):
        measured(tmp_path / "a")
    stopped = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert stopped["status"] == "interrupted"
    assert stopped["engine"]["model"] == "scripted"  # enough to replay what is there
    READER.update(calls=0, kill_after=None)
    assert measured(tmp_path / "a")["rows"] == whole["rows"]
    assert READER["calls"] <= total - kill_after + 1


def test_what_is_written(tmp_path):
    told = []
    folder = run_attack(load_scenario(SMALL), tmp_path / "a", ["seed=3"], FEW, told.append)
    record = json.loads((folder / "attack.json").read_text())
    assert record["seeds"] == [3]
    assert record["n_users"] == 6
    assert record["scenario"]["name"] == "small"
    assert record["recommender"] == "uniform"
    assert set(record["templates"]) == set(FEW.templates)
    assert record["engine"]["model"] == "scripted"
    assert record["engine"]["users"]["asked"]["watch"] == 6 * 4 * FEW.n_looks
    assert record["engine"]["users"]["prompts"]["watch"]
    assert record["versions"]["recsim-env"]
    assert record["hardware"]["cores"] >= 1
    page = (folder / "attack.md").read_text()
    assert page.count("| control-tokens | title | ") == 4
    assert record["target"]["title"] in page
    assert "nan" not in (page + json.dumps(record["rows"])).lower()
    assert (folder / "attack.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (told[-1].cell, told[-1].n_cells) == (FEW.n_looks, 2 * 2 * 3)
    assert "fence-break in title, defences on, last" in {t.label for t in told}


@pytest.mark.parametrize(
    ("plan", "changes", "error", "message"),
    [
        ({"templates": ("instructoin",)}, [], UnknownNameError, r"--templates.*Did you mean 'instruction'"),
        ({"positions": ("frist",)}, [], UnknownNameError, r"--positions.*Did you mean 'first'"),
        ({"fields": ("plot",)}, [], UnknownNameError, r"Unknown field 'plot' \(--fields\). Allowed: text, title"),
        ({"templates": ()}, [], ScenarioError, "at least one template"),
        ({"fields": ("title", "title")}, [], ScenarioError, "each once"),
        ({}, ["users.model=behavioral", "engine={}"], ScenarioError, "needs language-model users.*'behavioral'"),
        ({}, ["engine={}"], ScenarioError, "needs a language model: name an engine"),
        ({}, ["users.model=lm"], UnknownNameError, "Did you mean 'llm'"),
        ({}, ["users.decide=pairwise"], ScenarioError, "decide"),
    ],
)
def test_mistakes(tmp_path, plan, changes, error, message):
    with pytest.raises(error, match=message):
        run_attack(load_scenario(SMALL), tmp_path / "a", changes, Plan(**plan))
    assert not (tmp_path / "a").exists()


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    with pytest.raises(RunFolderError, match=r"holds no attack\.json"):
        measured(tmp_path / "mine")
    measured(tmp_path / "a")
    with pytest.raises(RunFolderError, match="other scenario"):
        measured(tmp_path / "a", changes=["seed=1"])


@pytest.mark.parametrize("decide", ["pointwise", "listwise"])
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_no_cap_cuts_a_payload_off(name, field, decide):
    catalog = load_movietweetings().catalog
    catalog.text[:] = "A long description that goes on. " * 20
    words = TEMPLATES[name].words(decide)
    longest = int(np.argmax([len(t) for t in catalog.title]))
    written = write_into(catalog, longest, field, words)
    for quoter in (Quoter(("<|im_end|>",), defences=False), Quoter(("<|im_end|>",))):
        card, clean = (Cards(c, quoter).card(longest) for c in (written, catalog))
        assert card != clean
        if not quoter.defences:
            assert words in card
            assert card[:15] == clean[:15]
    assert words not in getattr(catalog, field)[longest]


def test_the_figure_is_readable():
    rows = [
        {
            "template": template, "field": field, "position": position, "defences": defences,
            "p_click_lift": 0.2, "p_click_lift_low": 0.1, "p_click_lift_high": 0.4,
        }
        for template in TEMPLATES for field in FIELDS for position in POSITIONS for defences in (False, True)
    ]  # fmt: skip
    for shown in (rows, [r for r in rows if r["template"] == CONTROL and r["field"] == "text"]):
        figure = lift_plot(shown)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, (legend,) = canvas.get_renderer(), figure.legends
        box = legend.get_window_extent(renderer)
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.x1
        for ax in figure.axes:
            assert "attacked − clean" in ax.get_xlabel()
            assert not box.overlaps(ax.xaxis.label.get_window_extent(renderer))
        heights = [bar[0].get_ydata()[0] for bar in figure.axes[0].containers]
        assert len(set(heights)) == len(heights)  # no point on another


def recsim(*words, cwd):
    command = [sys.executable, "-m", "recsim_env.cli", *words]
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=variables, timeout=500)


def test_the_command_on_a_tiny_model_and_its_replay(tiny_model, tmp_path):
    # Random weights write no sentences and obey nobody; what is under test is the way there and back.
    sets = ["slate_size=2", "users.max_tokens=8", "users.remembered=4", "engine.retries=0"]
    sets += ["engine.max_failure_share=1"]
    same = [*(w for s in sets for w in ("--set", s)), "--users", "2", "--templates", "control-tokens", "-q"]
    same += ["--positions", "first", "--fields", "title"]
    done = recsim("attack", "--engine", "transformers", "--model", tiny_model, *same, "--out", "a", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "control-tokens" in done.stdout
    assert "Attack folder: a" in done.stdout
    record = json.loads((tmp_path / "a" / "attack.json").read_text())
    assert len(record["rows"]) == 2
    assert record["rows"][0]["p_click_lift"] != 0  # raw control tokens reach the model
    assert {f.name for f in (tmp_path / "a").iterdir()} >= {"attack.json", "attack.md", "attack.png", "replies.sqlite"}
    again = CliRunner().invoke(app, ["attack", "--replies", str(tmp_path / "a"), *same, "--out", str(tmp_path / "b")])
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "b" / "attack.json").read_text())["rows"] == record["rows"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--templates", "prais"], "Did you mean 'praise'"),
        (["quickstart"], "attack needs language-model users"),
        (["--set", "engine={}"], "name an engine"),
        (["--replies", "nowhere"], "no run folder"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, words, message):
    done = recsim("attack", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_the_setting_is_off_only_on_request():
    assert LLMUsers.config_class().defences
