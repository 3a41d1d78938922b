"""Logged tables: what is read, what is refused and where."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from recsim_env.errors import DataError, RecsimError, RunFolderError, ScenarioError, UnknownNameError
from recsim_env.experiments.ope.study import Plan, run_ope
from recsim_env.experiments.ope.table import evaluate_table, read_table

ONE = """user,item,reward,propensity,target_propensity
ann,x,1,0.5,0.9
ann,y,0,0.5,0.1
bob,x,1,0.25,0.5
bob,y,0,0.75,0
"""
SLATES = """user,slate,position,item,reward,propensity,target_propensity,predicted,predicted_target
ann,p1,2,y,1,0.5,1.0,0.2,0.4
ann,p1,1,x,0,0.25,0.5,0.1,0.3
bob,p2,1,z,1,0.5,0.25,0.3,0.2
"""


def written(tmp_path, text, name="log.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def estimates(path):
    return {row["estimator"]: row for row in evaluate_table(path)["estimates"]}


def test_one_item_by_hand(tmp_path):
    found = estimates(written(tmp_path, ONE))
    assert found["IPS"]["value"] == pytest.approx((1.8 + 2.0) / 4)
    assert found["SNIPS"]["value"] == pytest.approx(3.8 / 4.0)
    assert set(found) == {"IPS", "SNIPS", "clipped IPS"}
    assert found["IPS"]["largest"] == 2.0


def test_slates_by_hand_in_any_order_of_rows(tmp_path):
    log = read_table(written(tmp_path, SLATES))
    np.testing.assert_array_equal(log.reward, [[0.0, 1.0], [1.0, 0.0]])
    np.testing.assert_array_equal(log.turns.ratio, [[2.0, 2.0], [0.5, 1.0]])
    found = estimates(tmp_path / "log.csv")
    assert found["SIPS"]["value"] == pytest.approx((4.0 + 0.5) / 2)
    assert found["RIPS"]["value"] == pytest.approx((4.0 + 0.5) / 2)
    first = 2 * (0 - 0.1) + 0.3 + 4 * (1 - 0.2) + 2 * 0.4
    second = 0.5 * (1 - 0.3) + 0.2
    assert found["Cascade-DR"]["value"] == pytest.approx((first + second) / 2)


def test_parquet_gives_the_same(tmp_path):
    csv = written(tmp_path, ONE)
    pd.read_csv(csv).to_parquet(tmp_path / "log.parquet")
    assert estimates(csv) == estimates(tmp_path / "log.parquet")


def test_independent_ips_with_marginals(tmp_path):
    frame = pd.read_csv(written(tmp_path, SLATES))
    frame["position_propensity"], frame["target_position_propensity"] = 0.5, 0.25
    frame.to_csv(tmp_path / "log.csv", index=False)
    assert estimates(tmp_path / "log.csv")["IIPS"]["value"] == pytest.approx((0.5 * 1 + 0.5 * 1) / 2)


def test_without_a_target_the_log_tells_its_own_value(tmp_path):
    frame = pd.read_csv(written(tmp_path, ONE)).drop(columns="target_propensity")
    frame.to_csv(tmp_path / "log.csv", index=False)
    folder = run_ope(tmp_path / "log.csv", tmp_path / "out")
    record = json.loads((folder / "ope.json").read_text())
    assert record["estimates"] == []
    assert record["logged_value"][0]["value"] == 0.5
    assert "add a column target_propensity" in (folder / "ope.md").read_text()


def changed(text, line, old, new):
    lines = text.splitlines()
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (changed(ONE, 3, "0.5", "0"), DataError, "line 3: propensity is 0; a probability above 0"),
        (changed(ONE, 3, "0.5", "1.5"), DataError, "line 3: propensity is 1.5; a probability above 0 and at most 1"),
        (changed(ONE, 4, "0.25", "-0.25"), DataError, "line 4: propensity is -0.25"),
        (changed(ONE, 4, "0.25", ""), DataError, "line 4: propensity is ''"),
        (changed(ONE, 4, "0.25", "nan"), DataError, "line 4: propensity is 'nan', not a number"),
        (changed(ONE, 4, "0.25", "inf"), DataError, "line 4: propensity is inf, not a finite number"),
        (changed(ONE, 4, "0.25", "half"), DataError, "line 4: propensity is 'half', not a number"),
        (changed(ONE, 5, "0.75,0", "0.75,1.1"), DataError, "line 5: target_propensity is 1.1; .* between 0"),
        (changed(ONE, 2, "ann", ""), DataError, "line 2: user is empty"),
        (changed(ONE, 2, ",1,", ",,"), DataError, "line 2: reward is ''"),
        (changed(ONE, 1, "propensity", "pscore"), UnknownNameError, "has no column 'propensity'.*docs/ope.md"),
        (changed(ONE, 1, "user", "usr"), UnknownNameError, "Did you mean 'usr'"),
        (ONE.replace(",", ";"), UnknownNameError, "has no column 'user'.*not separated by commas"),
        ("user,item,reward,propensity\n", DataError, "no rows"),
        (changed(SLATES, 3, ",1,x", ",2,x"), DataError, "line 3: Position 2 stands twice"),
        (changed(SLATES, 3, ",1,x", ",0.5,x"), DataError, "line 3: position is 0.5"),
        (changed(SLATES, 4, "p2", "p1"), DataError, "stands twice|two users"),
        (changed(SLATES, 3, "ann", "bob"), DataError, "line 3: A slate has rows of two users"),
        (changed(SLATES, 1, "position", "place"), UnknownNameError, "column slate needs the positions"),
    ],
)  # fmt: skip
def test_mistakes_are_told_by_row(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        evaluate_table(written(tmp_path, text))


def test_rows_of_parquet_are_counted_from_one(tmp_path):
    frame = pd.read_csv(written(tmp_path, ONE))
    frame.loc[2, "propensity"] = 2.0
    frame.to_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="line 3: propensity is 2"):
        evaluate_table(tmp_path / "log.parquet")


def test_a_deterministic_log_is_refused_with_the_remedy(tmp_path):
    frame = pd.read_csv(written(tmp_path, ONE))
    frame["propensity"] = 1.0
    frame.to_csv(tmp_path / "log.csv", index=False)
    with pytest.raises(RecsimError, match=r"deterministic policy.*epsilon.*temperature"):
        evaluate_table(tmp_path / "log.csv")


def test_options_of_runs_are_refused(tmp_path):
    with pytest.raises(ScenarioError, match="for run folders"):
        run_ope(written(tmp_path, ONE), tmp_path / "out", Plan(calibrate=True))


def test_a_file_of_another_kind_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"log.txt is neither a run folder nor a log.*\.csv or \.parquet"):
        run_ope(written(tmp_path, ONE, "log.txt"), tmp_path / "out")


def test_the_command_reads_a_table(tmp_path):
    path = written(tmp_path, ONE)
    command = [sys.executable, "-m", "recsim_env.cli", "ope", str(path), "--out", str(tmp_path / "out"), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "SNIPS" in done.stdout
    assert {"ope.json", "ope.md", "ope.png"} <= {f.name for f in (tmp_path / "out").iterdir()}
    path.write_text(changed(ONE, 3, "0.5", "7"))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 2
    assert "line 3: propensity is 7" in done.stderr
