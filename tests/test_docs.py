"""What the documentation says exists."""

import importlib.util
import re
from pathlib import Path

import pytest

from recsim_env.registry import datasets, engines, recommenders, rewards, user_models
from recsim_env.scenario import Scenario, load_scenario, scenario_names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_table_of_scenario_keys_is_up_to_date():
    spec = importlib.util.spec_from_file_location("make_scenario_docs", ROOT / "scripts" / "make_scenario_docs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "scenarios.md").read_text()
    missing = [row for row in script.rows(Scenario) if row not in page]
    assert not missing, "run scripts/make_scenario_docs.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_named_files_exist(page):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
    for name in re.findall(
        r"`((?:recsim_env|agents|recommenders|benchmarks|examples|scripts|scenarios|tests)/[\w./]+)`", text
    ):
        if "*" not in name and name not in ("recsim_env/RecSim-v0",):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_documentation_exist(page):
    from typer.main import get_command

    from recsim_env.cli import app

    known = set(get_command(app).commands)
    for command in re.findall(r"recsim-env (?!list\b)([a-z][\w-]*)", page.read_text()):
        if command in ("recommenders",):  # prose
            continue
        assert command in known, f"{page.name}: recsim-env {command}"
    kinds = {"users", "recommenders", "scenarios", "studies", "datasets", "rewards", "engines"}
    assert set(re.findall(r"recsim-env list (\w+)", page.read_text())) <= kinds


@pytest.mark.parametrize("name", scenario_names())
def test_every_shipped_scenario_parses_and_names_what_exists(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.description
    for section in scenario.recommenders:
        recommenders.get(section.name)
    user_models.get(scenario.users.model)
    for reward in scenario.reward:
        rewards.get(reward)


@pytest.mark.parametrize("registry", [recommenders, user_models, engines, rewards, datasets], ids=lambda r: r.kind)
def test_every_plug_in_has_one_line_about_itself(registry):
    for name in registry.names():
        assert len(registry.summary(name)) > 10, name
