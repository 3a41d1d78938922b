"""The command line as a subprocess."""

import subprocess
import sys

import pytest


def cli(*words, cwd=None):
    command = [sys.executable, "-m", "recsim_env.cli", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=None)


def test_run_and_report(tmp_path):
    sets = ["days=3", "users.count=30", "recommenders=uniform,popularity", "replications=1", "data.min_ratings=20"]
    done = cli("run", "quickstart", "--out", "here", *(w for s in sets for w in ("--set", s)), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Run folder: here" in done.stdout
    assert (tmp_path / "here" / "report.html").stat().st_size > 50_000
    again = cli("report", "here", "--out", "other.html", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "other.html").exists()
    resumed = cli(
        "run",
        "quickstart",
        "--out",
        "here",
        "--resume",
        "--no-report",
        *(w for s in sets for w in ("--set", s)),
        cwd=tmp_path,
    )
    assert resumed.returncode == 0, resumed.stderr
    second = cli("run", "quickstart", "--out", "here", cwd=tmp_path)
    assert second.returncode == 2
    assert "not empty" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quikstart"], "Did you mean 'quickstart'"),
        (["run", "quickstart", "--set", "user.count=3"], "Did you mean 'users'"),
        (["run", "quickstart", "--set", "days"], "write KEY=VALUE"),
        (["run", "quickstart", "--set", "days=many"], "days"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["report", "nowhere"], "no run folder"),
        (["list", "recomenders"], "Did you mean 'recommenders'"),
        (["data", "describe", "movietweeting"], "Did you mean 'movietweetings'"),
    ],
)
def test_mistakes_end_with_2_and_without_a_traceback(tmp_path, words, message):
    done = cli(*words, cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("recommenders", "ease"),
        ("users", "behavioral"),
        ("scenarios", "quickstart"),
        ("datasets", "movietweetings"),
        ("rewards", "retention"),
        ("engines", "replay"),
    ],
)
def test_list(kind, name):
    done = cli("list", kind)
    assert done.returncode == 0, done.stderr
    assert name in done.stdout


def test_describe_and_doctor():
    done = cli("data", "describe", "movietweetings")
    assert done.returncode == 0, done.stderr
    assert "2,059" in done.stdout or "2059" in done.stdout
    done = cli("doctor")
    assert done.returncode == 0, done.stderr
    assert "gymnasium" in done.stdout


@pytest.mark.parametrize(
    "command", [["run"], ["attack"], ["report"], ["watch"], ["list"], ["data", "describe"], ["doctor"]]
)
def test_help_shows_an_example(command):
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout
