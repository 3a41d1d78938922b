"""A user's seat in the terminal: a page, a few letters, the next page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from rich.table import Table
from rich.text import Text

from recsim_env.errors import SeatError
from recsim_env.evaluation.tables import Cell
from recsim_env.interfaces import UserModel
from recsim_env.records import MessageKind, NextAction
from recsim_env.runner import Progress
from recsim_env.seat import HEARS, MOODS, Done, Reaction, Served
from recsim_env.watch_page import plain

HELP = """\
w 3        watch item 3 to the end; w 3 40: 40 % of it        m 3 8      give it the mark 8
l 3        like it                                            h 3        share it
c 3 words  comment on it                                      f good     how you feel (very bad ... very good)
n          next page                                          s words    search
t words    tell the recommender what you want                 q          leave the app
x          give the seat back: the user model goes on         ?          this help"""
NEXT = {"n": NextAction.NEXT, "s": NextAction.SEARCH, "t": NextAction.INSTRUCT, "q": NextAction.LEAVE}


class Draft:
    """A reaction that is being put together, command by command.

    Args:
        served: The page.
    """

    def __init__(self, served: Served) -> None:
        self.served = served
        self.done: dict[int, Done] = {}
        self.mood = 0.0

    def take(self, line: str) -> Reaction | None:
        """Takes one command; gives the reaction when it was the last one.

        Raises:
            SeatError: If it is none, or cannot be done on this page.
        """
        letter, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        try:
            if letter in NEXT:
                message = rest or None
                reaction = Reaction(
                    done=tuple(self.done[place] for place in sorted(self.done)), next_action=NEXT[letter],
                    message=message, mood=self.mood,
                )  # fmt: skip
                self.served.check(reaction)
                return reaction
            if letter == "f":
                if rest not in MOODS:
                    raise SeatError(f"You feel {', '.join(MOODS)}.")
                self.mood = MOODS[rest]
            elif letter in ("w", "m", "l", "h", "c"):
                self._change(letter, *_place(rest))
            else:
                raise SeatError(f"{letter!r} is no command; ? shows them.")
        except ValidationError as error:
            raise SeatError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return None

    def _change(self, letter: str, place: int, rest: str) -> None:
        """What is marked, liked, shared or commented on counts as watched to the end, unless ``w`` says otherwise."""
        changes: dict[str, Any] = {}
        if letter == "w":
            changes["watched"] = _figure(rest.rstrip("% "), "share in %") / 100 if rest else 1.0
        elif letter == "m":
            changes["rating"] = _figure(rest, "mark")
        elif letter == "c":
            changes["comment"] = rest or None
        else:
            changes["liked" if letter == "l" else "shared"] = True
        before = self.done.get(place, Done(position=place))
        changed = Done(**{**before.model_dump(), **changes})
        self.served.check(Reaction(done=(changed,)))
        self.done[place] = changed


def _place(rest: str) -> tuple[int, str]:
    number, _, more = rest.partition(" ")
    if not number.isdecimal() or int(number) < 1:
        raise SeatError("Which item? Name it by its number, for example: w 3")
    return int(number) - 1, more.strip()


def _figure(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SeatError(f"A {what} is a number, not {text!r}.") from None


class Terminal:
    """A :class:`recsim_env.seat.Person` who reads pages in the terminal.

    Args:
        user: Whose seat it takes.
        show: Prints something.
        ask: Asks for a line; raises EOFError where there are no more.
    """

    def __init__(self, user: int, show: Callable[[Any], None], ask: Callable[[str], str] = input) -> None:
        self.user, self.show, self.ask = user, show, ask
        self._sits = True
        self._day = -1
        self._explained = False

    def meet(self, cell: Cell, users: UserModel) -> None:
        """Needs to know nobody."""

    def seats(self, cell: Cell) -> tuple[int, ...]:
        """The one user, until the seat is given back."""
        return (self.user,) if self._sits else ()

    def on_progress(self, at: Progress) -> None:
        """Says on which days there was no page."""
        if self._sits and at.day > 0 and self._day < at.day - 1:
            self._day = at.day - 1
            self.show(Text(f"Day {self._day}: you do not open the app.", style="dim"))

    def react(self, served: Served) -> Reaction | None:
        """Shows a page and reads commands until it is left."""
        self._day = served.moment.day
        self.show(_page(served))
        if not self._explained:
            self._explained = True
            self.show(Text(f"{HELP}\n{HEARS[served.hears]}", style="dim"))
        draft = Draft(served)
        while True:
            try:
                line = self.ask("> ").strip()
            except EOFError:
                line = "x"
            if line == "x":
                self._sits = False
                self.show(Text("You gave the seat back; the user model goes on from the next visit."))
                return None
            if line == "?":
                self.show(Text(HELP, style="dim"))
            elif line:
                try:
                    reaction = draft.take(line)
                except SeatError as error:
                    self.show(Text(str(error), style="red"))
                    continue
                if reaction is not None:
                    return reaction


def _page(served: Served) -> Table:
    """The page, with what was said before it."""
    m = served.moment
    visit = f", visit {m.session + 1}" if m.session else ""
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", show_header=False)
    lines = [Text(f"\nDay {m.day}{visit}, page {m.turn + 1}", style="bold")]
    if served.message is not None:
        verb = "searched" if served.kind == MessageKind.SEARCH else "asked"
        lines.append(Text(f"You {verb}: “{plain(served.message)}”", style="cyan"))
        says = f"“{plain(served.answer)}”" if served.answer else "found these" if served.searched else "says nothing"
        lines.append(Text(f"{'Search' if served.searched else 'Recommender'}: {says}", style="magenta"))
    table.title = Text("\n").join(lines)
    for place, card in enumerate(served.cards, start=1):
        if card is not None:
            title = plain(card.title, 100) + (" (watched before)" if card.seen else "")
            table.add_row(Text(f"{place:>2}"), Text(title), Text(plain(", ".join(card.categories), 60), "dim"))
    return table
