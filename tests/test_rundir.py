"""The run folder: atomic commits, one writer, readers that see committed rows only."""

import os

import numpy as np
import pytest

from recsim_env.errors import RunFolderError
from recsim_env.rundir import CellWriter, Run, RunFolder, cell_name, disk_errors


def sessions(n, day):
    return {
        "day": np.full(n, day), "session": 0, "user": np.arange(n), "n_turns": 1, "n_clicks": 0, "watched": 0.0,
        "n_ratings": 0, "mean_rating": np.nan, "reward": 0.0, "satisfaction": 0.0, "churned": False,
    }  # fmt: skip


def test_rows_become_visible_with_the_commit_only(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_json("manifest.json", {})
        folder.write_json("progress.json", {})
        writer = CellWriter(folder, "ease", 3)
        writer.add("sessions", 2, sessions(2, 0))
        writer.say(0, 0, 1, 5, "user", "search", 'say "hé"')
        assert len(Run(tmp_path).sessions) == 0
        writer.commit(1)
        run = Run(tmp_path)
        assert run.sessions["user"].tolist() == [0, 1]
        assert run.sessions["recommender"].tolist() == ["ease", "ease"]
        assert run.sessions["seed"].tolist() == [3, 3]
        who = {"recommender": "ease", "seed": 3, "day": 0, "session": 0, "turn": 1, "user": 5}
        assert run.messages == [{**who, "speaker": "user", "kind": "search", "text": 'say "hé"'}]
        writer.add("sessions", 1, sessions(1, 1))
        writer.commit(2, done=True)
        assert Run(tmp_path).sessions["day"].tolist() == [0, 0, 1]
        again = CellWriter(folder, "ease", 3)
        assert again.committed_days == 2
        assert again.done


def test_what_a_kill_leaves_half_done_is_dropped(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_json("manifest.json", {})
        folder.write_json("progress.json", {})
        writer = CellWriter(folder, "ease", 0)
        writer.add("sessions", 1, sessions(1, 0))
        writer.say(0, 0, 0, 0, "user", "search", "kept")
        writer.commit(1)
        # The next part reaches its place, its messages too, but the state pointer is never replaced.
        stray = tmp_path / "sessions.parquet" / "ease-seed0-00001.parquet"
        stray.write_bytes((tmp_path / "sessions.parquet" / "ease-seed0-00000.parquet").read_bytes())
        (tmp_path / "sessions.parquet" / "ease-seed0-00002.tmp").write_bytes(b"half")
        with (tmp_path / "messages.jsonl").open("a") as file:
            file.write('{"text": "half do')
        assert len(Run(tmp_path).sessions) == 1
        assert [m["text"] for m in Run(tmp_path).messages] == ["kept"]
        folder.drop_uncommitted()
        assert os.listdir(tmp_path / "sessions.parquet") == ["ease-seed0-00000.parquet"]
        assert (tmp_path / "messages.jsonl").read_text().count("\n") == 1


def test_messages_with_any_line_separator_come_back_and_talks_are_among_them(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_json("manifest.json", {})
        folder.write_json("progress.json", {})
        writer = CellWriter(folder, "ease", 0)
        writer.say(0, 0, 0, 1, "recommender", "answer", 'a\u2028b\x85c\n"kind": "chat"')
        writer.say(0, -1, -1, 1, "user", "chat", "hi", (2,))
        writer.commit(1)
        first = folder.progress()["ease-seed0"]["messages"]
        writer.say(1, -1, -1, 2, "user", "post", "all", (1, 3))
        assert [m["text"] for m in Run(tmp_path).messages] == ['a\u2028b\x85c\n"kind": "chat"', "hi"]
        writer.commit(2)
        assert [(m["kind"], m["to"]) for m in Run(tmp_path).talks()] == [("chat", [2]), ("post", [1, 3])]
        assert [m["text"] for m in Run(tmp_path).talks(first)] == ["all"]


def test_tables_can_be_read_for_one_user_and_from_a_part_on(tmp_path):
    with RunFolder(tmp_path) as folder:
        folder.write_json("manifest.json", {})
        folder.write_json("progress.json", {})
        for name in ("ease", "als"):
            writer = CellWriter(folder, name, 0)
            for day in range(3):
                writer.add("sessions", 4, sessions(4, day))
                writer.commit(day + 1)
        found = Run(tmp_path).table("sessions", ["day", "recommender"], "als-seed0", user=2, first_part=1)
        assert found["day"].tolist() == [1, 2]
        assert found["recommender"].tolist() == ["als", "als"]
        assert len(Run(tmp_path).table("sessions", user=7)) == 0


def test_a_second_writer_is_refused(tmp_path):
    with RunFolder(tmp_path), pytest.raises(RunFolderError, match="being written by another process"):
        RunFolder(tmp_path)
    with RunFolder(tmp_path):
        pass  # the first has let go


def test_a_full_disk_says_so_and_leaves_the_committed_rows(tmp_path, monkeypatch):
    with RunFolder(tmp_path) as folder:
        folder.write_json("manifest.json", {})
        folder.write_json("progress.json", {})
        writer = CellWriter(folder, "ease", 0)
        writer.add("sessions", 1, sessions(1, 0))
        writer.commit(1)
        writer.add("sessions", 1, sessions(1, 1))

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunFolderError, match=r"disk is full.*intact.*--resume"):
            writer.commit(2)
        monkeypatch.undo()
        writer.abandon()
        folder.drop_uncommitted()
        assert len(Run(tmp_path).sessions) == 1


def test_other_disk_errors_keep_their_reason(tmp_path):
    with pytest.raises(RunFolderError, match="Permission denied"), disk_errors(tmp_path):
        raise PermissionError(13, "Permission denied")


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"no manifest\.json"):
        Run(tmp_path)


def test_cell_names_are_safe_file_names():
    assert cell_name("my ease/2", 7) == "my_ease_2-seed7"
