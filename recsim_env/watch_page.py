"""How a user's days look in the terminal: stories to rich renderables, up to 100 columns, clear without colour too.

Titles and words are untrusted: they pass :func:`plain`, so that none moves the cursor, and none is read as markup.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from recsim_env.evaluation.story import Day, Page, Person, Shown, Talk, Visit
from recsim_env.records import MessageKind, NextAction
from recsim_env.watch import Event, Note, Quiet

WIDTH = 100
_LENGTH = 600
_BAR = 5
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # a control sequence: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # a string for the terminal: title, link
    r"|\x1b[ -/]*[0-~]?",
    re.DOTALL,
)
_MOODS = ((-0.6, "very bad"), (-0.2, "bad"), (0.2, "neutral"), (0.6, "good"), (9.0, "very good"))
_BOREDOMS = ((0.2, "none"), (0.5, "a little"), (0.8, "quite"), (9.0, "very"))
_TRUSTS = ((-0.3, "low"), (0.3, "neutral"), (9.0, "high"))


def render(event: Event) -> RenderableType:
    """Anything that :func:`recsim_env.watch.tell` and :func:`recsim_env.watch.follow` give."""
    if isinstance(event, Person):
        return person(event)
    if isinstance(event, Day):
        return day(event)
    return quiet(event) if isinstance(event, Quiet) else note(event)


def plain(text: str, limit: int = _LENGTH) -> str:
    """One line of visible characters: no escape sequence, no control, invisible or direction character.

    Args:
        text: Untrusted text.
        limit: Characters at most; what is cut off shows as an ellipsis.
    """
    text = _ESCAPE.sub("", text)
    kept = (" " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def person(who: Person) -> RenderableType:
    """Who is watched, under which recommender."""
    title = Text(plain(f"{who.title} under {who.recommender}, seed {who.seed}"), style="bold")
    known = " · ".join(f"{key}: {value}" for key, value in who.profile.items() if key != "name")
    past = " · ".join(f"{title} {stars:g}" if stars is not None else title for title, stars in who.past)
    lines = [("profile", Text(plain(known))), ("watched", Text(plain(past)))]
    return _fit(title, _labelled([(label, text) for label, text in lines if text.plain]))


def day(told: Day) -> RenderableType:
    """A day: its visits page by page, then what was said in the evening."""
    blocks: list[RenderableType] = []
    for number, visit in enumerate(told.visits, start=1):
        of = f", visit {number} of {len(told.visits)}" if len(told.visits) > 1 else ""
        blocks += [Text(), _rule(f"Day {told.day}{of}"), *_visit(visit, told.person)]
    if told.talks:
        said = _labelled([(talk.kind, _talk(talk)) for talk in told.talks])
        blocks += [Text(), _rule(f"Day {told.day}, evening"), said]
    return _fit(*blocks)


def quiet(gap: Quiet) -> RenderableType:
    """Days on which nothing happened."""
    days = f"Day {gap.first}" if gap.first == gap.last else f"Days {gap.first} to {gap.last}"
    return _fit(Text(), Text(f"{days}: did not open the app.", style="dim"))


def note(line: Note) -> RenderableType:
    """A line about the run."""
    return _fit(Text(), Text(plain(line.text), style="italic"))


def _fit(*parts: RenderableType) -> RenderableType:
    return Constrain(Group(*parts), WIDTH)


def _rule(title: str) -> RenderableType:
    return Rule(Text(title, style="bold"), align="left", style="dim")


def _visit(visit: Visit, who: Person) -> list[RenderableType]:
    blocks: list[RenderableType] = []
    before: str | None = None
    for number, page in enumerate(visit.pages, start=1):
        blocks += [Text()] * (number > 1) + _page(page, number, before, who.top_mark)
        before = page.next_message
    if visit.churned:
        blocks.append(Padding(Text("Stopped for good after this visit.", style="bold"), (0, 0, 0, 2)))
    return blocks


def _page(page: Page, number: int, before: str | None, top_mark: float | None) -> list[RenderableType]:
    """One page; ``before`` is what the user said on the page before, which need not be told again."""
    asked: list[tuple[str, Text]] = []
    if page.message is not None and page.message != before:
        label = "searched" if page.message_kind == MessageKind.SEARCH else "asked"
        asked.append((label, _quote(page.message, "cyan")))
    if page.answer is not None:
        asked.append(("answer", _quote(page.answer, "magenta")))
    by = ", found by the catalogue's search" if page.searched else ""
    after = [("comments", _comment(item)) for item in page.items if item.comment]
    if page.thoughts:
        after.append(("thinks", _quote(page.thoughts, "italic")))
    after += [("feels", _feelings(page)), ("then", _next(page))]
    if page.fallback:
        after.append(("note", Text("a reply of the user's model could not be used; a substitute stands in its place")))
    head = Padding(Text(f"Page {number}{by}", style="bold"), (0, 0, 0, 2))
    return [head, *([_labelled(asked)] if asked else []), _items(page.items, top_mark), _labelled(after)]


def _items(items: Sequence[Shown], top_mark: float | None) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.add_column(justify="right", width=3)
    table.add_column(ratio=5)
    table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column(ratio=5)
    for place, item in enumerate(items, start=1):
        style = "bold" if item.clicked else "dim" if not item.looked_at else ""
        name, genres = plain(item.name, 120), plain(", ".join(item.categories), 80)
        table.add_row(Text(str(place)), Text(name, style), Text(genres, "dim"), Text(_did(item, top_mark), style))
    if not items:
        table.add_row(Text(), Text("nothing was left to show", style="dim"), Text(), Text())
    return Padding(table, (0, 0, 0, 2))


def _did(item: Shown, top_mark: float | None) -> str:
    """What the user did with an item, in words."""
    if not item.clicked:
        return "skipped" if item.looked_at else "not seen"
    did = [f"watched {item.watched_fraction:.0%}"]
    if item.stars is not None:
        did.append(f"{item.stars:g}/{top_mark:g}" if top_mark is not None else f"mark {item.stars:g}")
    return ", ".join(did + ["liked"] * item.liked + ["shared"] * item.shared)


def _comment(item: Shown) -> Text:
    return Text.assemble(f"on {plain(item.name, 120)}: ", _quote(item.comment or ""))


def _feelings(page: Page) -> Text:
    """Mood, boredom and trust: a bar and a word each; a person in the user's seat is asked for its mood only."""
    parts = [f"{name} {_bar(share)} {word}" for name, share, word in feelings(page)]
    return Text("".join(f"{part:<{width}}" for part, width in zip(parts, (22, 24, 0), strict=False)).rstrip())


def feelings(page: Page) -> list[tuple[str, float, str]]:
    """Mood, boredom and trust after a page, as far as they are known: name, share of the scale, word."""
    scales = (
        ("mood", page.mood, (page.mood + 1) / 2, _MOODS),
        ("boredom", page.boredom, page.boredom, _BOREDOMS),
        ("trust", page.trust, (page.trust + 1) / 2, _TRUSTS),
    )
    return [
        (name, share, next(word for limit, word in words if value < limit or limit == 9.0))
        for name, value, share, words in scales
        if value == value  # not NaN
    ]


def _bar(share: float) -> str:
    full = round(min(max(share, 0.0), 1.0) * _BAR)
    return "●" * full + "○" * (_BAR - full)


def _next(page: Page) -> Text:
    words = _quote(page.next_message, "cyan") if page.next_message else Text()
    if page.next_action == NextAction.SEARCH:
        return Text.assemble("searches ", words)
    if page.next_action == NextAction.INSTRUCT:
        return Text.assemble("tells the recommender: ", words)
    if page.next_action == NextAction.LEAVE:
        return Text.assemble("leaves", ", with a last word: " if words else "", words)
    return Text("goes on to the next page")


def _talk(talk: Talk) -> Text:
    heard = plain(", ".join(talk.to) if len(talk.to) <= 3 else f"{len(talk.to)} friends")
    who = f"to {heard}: " if talk.own else f"{plain(talk.speaker)} to {heard}: "
    return Text.assemble(who, _quote(talk.text, "cyan"))


def _quote(text: str, style: str = "") -> Text:
    return Text(f"“{plain(text)}”", style=style)


def _labelled(lines: Sequence[tuple[str, Text]]) -> RenderableType:
    """Lines with a word before each, hanging."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=8, style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in lines:
        table.add_row(Text(label), text)
    return Padding(table, (0, 0, 0, 4))
