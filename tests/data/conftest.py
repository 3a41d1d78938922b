"""Fixtures of the data tests: the folder of real data sets, and small files that stand in for them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Folder of a real data set; skips without one, fails where RECSIM_DATA promises one."""
    named = os.environ.get("RECSIM_DATA")
    base = Path(named) if named else ROOT / ".." / "shared" / "data"

    def folder(name: str) -> Path:
        path = base / name
        if not path.is_dir():
            if named:
                pytest.fail(f"RECSIM_DATA={named} has no folder {name}")
            pytest.skip(f"no folder {path}; set RECSIM_DATA")
        return path

    return folder


@pytest.fixture
def ml_100k(tmp_path: Path) -> Path:
    """Three users and three films in the format of MovieLens 100K; film 4 is never rated."""
    folder = tmp_path / "ml-100k"
    folder.mkdir()
    (folder / "u.genre").write_text("unknown|0\nAction|1\nDrama|2\n\n")
    films = (
        "1|Amélie (2001)|x|||0|0|1",
        "2|Heat (1995) (V)|x|||0|1|1",
        "3|unknown||||1|0|0",
        "4|Alien (1979)|x|||0|1|0",
    )
    (folder / "u.item").write_bytes("\n".join(films).encode("latin-1"))
    (folder / "u.user").write_text("1|24|M|writer|1\n2|53|F|other|2\n3|30|F|artist|3\n")
    (folder / "u.data").write_text("2\t1\t5\t10\n1\t1\t4\t30\n1\t2\t1\t20\n1\t3\t3\t20\n")
    return folder


@pytest.fixture
def ml_1m(tmp_path: Path) -> Path:
    """Two users and three films in the format of MovieLens 1M, one of them with a plot."""
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    films = ("10::Amélie: the film (2001)::Comedy|Romance", "20::Heat (1995)::Action", "30::Alien (1979)::Horror")
    (folder / "movies.dat").write_bytes("\n".join(films).encode("latin-1"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    (folder / "ratings.dat").write_text("1::20::5::300\n1::10::4::100\n2::10::3::200\n")
    plots = "10::A::2001::R::x::x::J.-P. Jeunet::N/A::A. Tautou, M. Kassovitz::She: a “dreamer”.::x\r\n"
    (folder / "movies_extrainfos.dat").write_bytes(plots.encode())
    return folder
