"""Run folders of experiments: made, gone on with, taken as they are, refused."""

import pytest

from recsim_env.errors import RunFolderError
from recsim_env.experiments.runs import complete, refuse_another
from recsim_env.rundir import load_run
from recsim_env.scenario import load_scenario

TINY = ["users.count=8", "days=2", "recommenders=[uniform]", "replications=1"]


def test_a_run_is_made_once_and_a_folder_without_a_head_is_made_anew(tmp_path):
    scenario, path = load_scenario("quickstart", TINY), tmp_path / "run"
    path.mkdir()
    (path / "lock").write_text("left by a process that was killed before it had written its head")
    asked = []
    complete(scenario, path, asked.append)
    assert load_run(path).manifest["status"] == "complete"
    n = len(asked)
    assert n
    complete(scenario, path, asked.append)
    assert len(asked) == n
    refuse_another(path, scenario)
    refuse_another(tmp_path / "nothing", scenario)
    with pytest.raises(RunFolderError, match="another scenario"):
        refuse_another(path, load_scenario("quickstart", [*TINY, "days=3"]))
