"""What one user lived through, told page by page: a session for the report, whole days for those who watch.

Texts stand here as they were logged, untrusted: whoever shows them escapes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recsim_env.evaluation.tables import Cell, RunTables
from recsim_env.records import SEARCH_POLICY, MessageKind, NextAction
from recsim_env.rundir import cell_name

_WHEN = ["day", "session", "turn"]
_COLUMNS = {
    "turns": [
        *_WHEN, "policy", "message_kind", "message", "answer", "next_action", "next_message", "trace_mood",
        "trace_boredom", "trace_trust", "trace_thoughts", "trace_fallback",
    ],
    "impressions": [
        *_WHEN, "position", "item", "clicked", "watched_fraction", "liked", "shared", "rating", "comment",
        "trace_examined",
    ],
    "sessions": ["day", "session", "churned"],
}  # fmt: skip
_NOT_PROFILE = {"seed", "user", "user_id", "data_user", "history", "history_rating"}
_LAST = 5


def full_title(title: str, year: int) -> str:
    """A title with its year, once; 0 is an unknown year."""
    return f"{title} ({year})" if year and f"({year})" not in title else title


@dataclass(frozen=True, slots=True)
class Shown:
    """One item of a page and what the user did with it.

    Attributes:
        title: As the catalogue has it.
        year: 0 where it is unknown.
        categories: Names.
        looked_at: Whether the user saw it.
        clicked: Whether the user watched it.
        watched_fraction: In [0, 1].
        liked: Whether the user liked it.
        shared: Whether the user shared it.
        stars: The mark on the catalogue's own scale, None where there is none.
        comment: The user's words on it, or None.
    """

    title: str
    year: int
    categories: tuple[str, ...]
    looked_at: bool
    clicked: bool
    watched_fraction: float
    liked: bool
    shared: bool
    stars: float | None
    comment: str | None

    @property
    def name(self) -> str:
        """The title with its year, once."""
        return full_title(self.title, self.year)


@dataclass(frozen=True, slots=True)
class Page:
    """One turn. ``message`` came before it, ``next_message`` after it; the mindset is the one after the page.

    Boredom and trust are NaN where a person sat in the user's seat: it is asked for its mood only.

    ``fallback`` says that a reply of the user's model could not be used and a substitute stands in its place.
    """

    searched: bool
    message: str | None
    message_kind: MessageKind
    answer: str | None
    items: tuple[Shown, ...]
    mood: float
    boredom: float
    trust: float
    thoughts: str | None
    fallback: bool
    next_action: NextAction
    next_message: str | None


@dataclass(frozen=True, slots=True)
class Visit:
    """One session: its pages, and whether the user stopped for good after it."""

    day: int
    session: int
    pages: tuple[Page, ...]
    churned: bool


@dataclass(frozen=True, slots=True)
class Person:
    """One user under one recommender.

    Attributes:
        recommender: Label of the recommender.
        seed: Seed of the replication.
        user: Row in the population of that seed.
        user_id: The data set's id, or that of a made-up user.
        name: What others call the user: a name where the population has one, else ``"user 7"``.
        profile: Static features that are known, as words.
        past: The last titles of the user's history with their ratings.
        top_mark: Upper end of the rating scale, None where the run does not say.
    """

    recommender: str
    seed: int
    user: int
    user_id: str
    name: str
    profile: Mapping[str, str]
    past: tuple[tuple[str, float | None], ...]
    top_mark: float | None

    @property
    def title(self) -> str:
        """Row, id, and the name if there is one."""
        named = "" if self.name == f"user {self.user}" else f", {self.name}"
        return f"User {self.user} (id {self.user_id}{named})"

    @property
    def cell(self) -> Cell:
        """The recommender and the seed."""
        return self.recommender, self.seed


@dataclass(frozen=True, slots=True)
class Talk:
    """A chat or post between visits; ``own`` where the user of the story said it, else it was heard."""

    kind: str
    own: bool
    speaker: str
    to: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Day:
    """A user's day: visits in their order, then what was said in the evening; both may be empty."""

    person: Person
    day: int
    visits: tuple[Visit, ...]
    talks: tuple[Talk, ...]

    @property
    def churned(self) -> bool:
        """Whether the user stopped for good on this day."""
        return any(visit.churned for visit in self.visits)


@dataclass(frozen=True, slots=True)
class Story:
    """One session and whose it was."""

    person: Person
    visit: Visit


def tell_person(run: RunTables, cell: Cell, user: int) -> Person:
    """Who a user is.

    Args:
        run: The run folder.
        cell: Recommender and seed.
        user: Row in the population of that seed.
    """
    recommender, seed = cell
    row = population(run.users, seed).iloc[user]
    titles = run.items["title"].to_numpy()
    past = list(zip(row["history"], row["history_rating"], strict=True))[-_LAST:]
    scale = run.manifest.get("data", {}).get("scale")
    profile = {str(name): str(row[name]) for name in row.index if name not in _NOT_PROFILE}
    return Person(
        recommender=recommender,
        seed=seed,
        user=user,
        user_id=str(row["user_id"]),
        name=profile.get("name") or f"user {user}",
        profile={name: value for name, value in profile.items() if value},
        past=tuple((str(titles[int(item)]), _number(stars)) for item, stars in past),
        top_mark=float(scale[1]) if scale else None,
    )


def tell_story(run: RunTables, cell: Cell, user: int, day: int, session: int) -> Story:
    """One session of one user."""
    person = tell_person(run, cell, user)
    visits = [v for v in _visits(run, person, range(day, day + 1), 0) if v.session == session]
    return Story(person, visits[0])


def tell_days(run: RunTables, person: Person, days: range, first_part: int = 0, first_byte: int = 0) -> tuple[Day, ...]:
    """Days of one user, each of them, with what others told it and it told others.

    Reads the rows of this user in this cell only.

    Args:
        run: The run folder.
        person: Whose days.
        days: Which days, all of them committed.
        first_part: Parts of the cell before this one are not read: they hold earlier days.
        first_byte: Bytes of ``messages.jsonl`` that hold earlier days.
    """
    visits = _visits(run, person, days, first_part)
    talks = _talks(run, person, first_byte) or _opinions(run, person, first_part)  # words tell the opinions in them
    return tuple(
        Day(
            person,
            day,
            tuple(visit for visit in visits if visit.day == day),
            tuple(talk for said_on, talk in talks if said_on == day),
        )
        for day in days
    )


def _visits(run: RunTables, person: Person, days: range, first_part: int) -> list[Visit]:
    """The sessions of some days in their order."""

    def rows(table: str) -> pd.DataFrame:
        frame = run.table(table, _COLUMNS[table], cell_name(*person.cell), person.user, first_part)
        return frame[frame["day"].isin(days)]

    turns, items = rows("turns").sort_values(_WHEN), run.items
    shown = {when: page for when, page in rows("impressions").sort_values([*_WHEN, "position"]).groupby(_WHEN)}
    ended = rows("sessions").set_index(["day", "session"])["churned"]
    visits = []
    for _, pages in turns.groupby(["day", "session"]):
        day, session = int(pages["day"].iloc[0]), int(pages["session"].iloc[0])
        told = [_page(turn, shown.get((day, session, turn["turn"])), items) for _, turn in pages.iterrows()]
        visits.append(Visit(day, session, tuple(told), bool(ended.get((day, session), False))))
    return visits


def _page(turn: pd.Series[Any], shown: pd.DataFrame | None, items: pd.DataFrame) -> Page:
    rows = [] if shown is None else [row for _, row in shown.iterrows() if row["item"] < len(items)]
    return Page(
        searched=str(turn["policy"]) == SEARCH_POLICY,
        message=_text(turn["message"]),
        message_kind=MessageKind(int(turn["message_kind"])),
        answer=_text(turn["answer"]),
        items=tuple(_shown(row, items) for row in rows),
        mood=float(turn["trace_mood"]),
        boredom=float(turn["trace_boredom"]),
        trust=float(turn["trace_trust"]),
        thoughts=_text(turn["trace_thoughts"]),
        fallback=bool(turn["trace_fallback"]),
        next_action=NextAction(int(turn["next_action"])),
        next_message=_text(turn["next_message"]),
    )


def _shown(row: pd.Series[Any], items: pd.DataFrame) -> Shown:
    item = items.iloc[int(row["item"])]
    return Shown(
        title=str(item["title"]),
        year=int(item["year"]),
        categories=tuple(str(name) for name in item["categories"]),
        looked_at=bool(row["trace_examined"]),
        clicked=bool(row["clicked"]),
        watched_fraction=float(row["watched_fraction"]),
        liked=bool(row["liked"]),
        shared=bool(row["shared"]),
        stars=_number(row["rating"]),
        comment=_text(row["comment"]),
    )


def _talks(run: RunTables, person: Person, first_byte: int) -> list[tuple[int, Talk]]:
    """Chats and posts that the user said or heard, with their days."""
    found = []
    for line in run.talks(first_byte):
        to = line.get("to", ())
        if (line["recommender"], line["seed"]) == person.cell and person.user in (line["user"], *to):
            speaker, *heard = names_of(run.users, person.seed, [line["user"], *to])
            film = f" ({_marked(run, line['item'], line['stars'])})" if "item" in line else ""
            talk = Talk(line["kind"], line["user"] == person.user, speaker, tuple(heard), line["text"] + film)
            found.append((int(line["day"]), talk))
    return found


def _opinions(run: RunTables, person: Person, first_part: int) -> list[tuple[int, Talk]]:
    """Opinions that the user told or heard, with their days: behavioural users speak in titles and marks."""
    if run.manifest["scenario"].get("population", {}).get("graph", "none") == "none":
        return []
    cell, me = cell_name(*person.cell), person.user
    friends = run.table("friends", ["user", "friend"], cell, me)["friend"]
    told = run.table("opinions", ["day", "user", "to", "item", "stars"], cell, None, first_part)
    public = told["to"] < 0
    told = told[(told["user"] == me) | (told["to"] == me) | (public & told["user"].isin(friends))]
    found = []
    for day, user, to, item, stars in zip(*(told[name].tolist() for name in told.columns), strict=True):
        hearers = [to] if to >= 0 else friends.tolist() if user == me else []
        speaker, *heard = names_of(run.users, person.seed, [user, *hearers])
        text = _marked(run, item, stars)
        talk = Talk("chat" if to >= 0 else "post", user == me, speaker, tuple(heard) or ("everybody",), text)
        found.append((day, talk))
    return found


def _marked(run: RunTables, item: int, stars: float) -> str:
    return f"{run.items['title'].iloc[item]}: {stars:g}"


def population(users: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The users of one seed, in the order of their rows."""
    return users[users["seed"] == seed] if "seed" in users else users


def names_of(users: pd.DataFrame, seed: int, rows: Sequence[int]) -> list[str]:
    """What users are called: by name where the population has names, else by row."""
    if "name" not in users:
        return [f"user {row}" for row in rows]
    names = population(users, seed)["name"].to_numpy()
    return [str(names[row]) or f"user {row}" for row in rows]


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)
