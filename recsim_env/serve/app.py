"""The page: routes, and what each of them shows. Everything that it shows of a run comes from the run folder."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlencode

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from recsim_env.errors import RecsimError, SeatError
from recsim_env.evaluation.choice import find_user
from recsim_env.evaluation.story import tell_days, tell_person
from recsim_env.seat import HEARS, MOODS
from recsim_env.serve import forms
from recsim_env.serve.guard import Guard
from recsim_env.serve.people import mindset, neighbourhood
from recsim_env.serve.site import Site
from recsim_env.serve.stage import Stage
from recsim_env.watch_page import feelings, plain

HERE = Path(__file__).parent
Show: TypeAlias = Callable[[Request], Response]
PEOPLE = 15
"""Users on one page of the list."""


def make_app(path: Path, port: int, stage: Stage | None = None) -> Guard:
    """The page of a run folder.

    Args:
        path: The folder; it may be made later.
        port: Where the page will listen, for checking who asks.
        stage: Where the simulation is controlled; None shows a run that others write, or wrote.
    """
    page = Page(Site(path, stage))
    routes = [
        Route("/", page.overview),
        Route("/status", page.status),
        Route("/curves", page.curves),
        Route("/people", page.people),
        Route("/find", page.find),
        Route("/users/{user:int}", page.user),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    if stage is not None:
        routes += [
            Route("/seat", page.seat),
            Route("/seat/now", page.seat_now),
            Route("/go", _posted(page.go), methods=["POST"]),
            Route("/seat/take", _posted(page.take), methods=["POST"]),
            Route("/seat/leave", _posted(page.leave), methods=["POST"]),
            Route("/seat/answer", _posted(page.answer), methods=["POST"]),
        ]
    handlers: Any = {RecsimError: page.refused, HTTPException: page.missing}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), port)


def _posted(act: Callable[[dict[str, str]], str]) -> Callable[[Request], Awaitable[Response]]:
    """A route that does something with a form's fields and then shows a page."""

    async def endpoint(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > forms.LARGEST:
                break
        there = await run_in_threadpool(lambda: act(forms.fields_of(body)))
        return RedirectResponse(there, status_code=303)

    return endpoint


class Page:
    """What the routes show and do.

    Args:
        site: The run folder and its simulation.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        loader = jinja2.FileSystemLoader(HERE / "templates")
        self._templates = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._templates.filters["plain"] = plain
        self._templates.globals.update(feelings=feelings, moods=MOODS, hears=HEARS, link=partial(_link, site))

    def _html(self, request: Request, template: str, status: int = 200, **values: Any) -> Response:
        """A template; 304 where the browser has the same already."""
        text = self._templates.get_template(template).render(site=self.site.now(), **values)
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:20]}"'
        if status == 200 and request.headers.get("if-none-match") == tag:
            return Response(status_code=304)
        return HTMLResponse(text, status, {"ETag": tag})

    def overview(self, request: Request) -> Response:
        """Curves, controls, users."""
        return self._html(request, "overview.html", query=request.url.query)

    def status(self, request: Request) -> Response:
        """How the run stands."""
        return self._html(request, "_status.html")

    def curves(self, request: Request) -> Response:
        """The curves of the seed that is looked at."""
        figures = self.site.figures()
        cell = self.site.cell_of(request)
        if figures is None or cell is None:
            return self._html(request, "_curves.html", svg=None, rows=[], seed=0, trends=None)
        last = figures.by_day(cell[1]).groupby("recommender", sort=False).last().reset_index()
        rows = last.to_dict("records")
        svg, trends = figures.svg(cell[1]) if rows else None, figures.trends(cell)
        return self._html(request, "_curves.html", svg=svg, rows=rows, seed=cell[1], trends=trends)

    def people(self, request: Request) -> Response:
        """A page of the list of users."""
        run, figures, cell = self.site.run(), self.site.figures(), self.site.cell_of(request)
        if run is None or figures is None or cell is None:
            return self._html(request, "_people.html", rows=[], cell=None)
        first = min(max(_whole(request, "from", 0), 0), max(figures.n_users - 1, 0))
        first -= first % PEOPLE
        rows = self.site.rows(cell, range(first, min(first + PEOPLE, figures.n_users)))
        return self._html(
            request, "_people.html", rows=rows, cell=cell, first=first, size=PEOPLE, n_users=figures.n_users,
            cells=run.cells,
        )  # fmt: skip

    def find(self, request: Request) -> Response:
        """Goes to the page of a user that is named."""
        run, cell = self.site.run(), self.site.cell_of(request)
        if run is None or cell is None:
            raise RecsimError("The run is being prepared: there are no users yet.")
        user = find_user(run.users, [cell[1]], request.query_params.get("user", "").strip())[cell[1]]
        return RedirectResponse(_link(self.site, cell, user), status_code=303)

    def user(self, request: Request) -> Response:
        """One user."""
        run, figures, cell = self.site.run(), self.site.figures(), self.site.cell_of(request)
        if run is None or figures is None or cell is None:
            raise RecsimError("The run is being prepared: there are no users yet.")
        user = int(request.path_params["user"])
        if not 0 <= user < figures.n_users:
            raise HTTPException(404, f"There is no user {user}: users are numbered from 0 to {figures.n_users - 1}.")
        person, sums, minds = tell_person(run, cell, user), figures.sums(cell), self.site.minds(cell)
        days = sums.visits[user].nonzero()[0].tolist()
        day = _whole(request, "day", days[-1] if days else 0)
        pages = mindset(run, cell, user)
        return self._html(
            request, "user.html", person=person, cell=cell, cells=run.cells, days=days, day=day,
            told=tell_days(run, person, range(day, day + 1))[0], n_days=sums.days,
            row=self.site.rows(cell, range(user, user + 1))[0],
            mindset=figures.mindset_svg(pages) if len(pages) > 1 else None,
            friends=neighbourhood(run, cell, user, None if minds is None else minds.names),
            memories=None if minds is None else minds.memories(user),
            portrait="" if minds is None else minds.portrait(user),
            sat=user in run.people.get(cell, ()),
        )  # fmt: skip

    def seat(self, request: Request) -> Response:
        """The seat."""
        return self._html(request, "seat.html")

    def seat_now(self, request: Request) -> Response:
        """What lies before the person now."""
        state = self._stage().state()
        run = self.site.run()
        row = name = None
        if state.seat is not None and run is not None:
            cell, user = state.seat
            row, name = self.site.rows(cell, range(user, user + 1))[0], tell_person(run, cell, user).title
        return self._html(request, "_seat.html", row=row, name=name)

    def _stage(self) -> Stage:
        assert self.site.stage is not None, "the seat's routes are there with a stage only"
        return self.site.stage

    def go(self, fields: dict[str, str]) -> str:
        """Start, pause, step."""
        going = {"start": "on", "pause": "paused", "step": "step"}.get(fields.get("go", ""))
        if going is None:
            raise SeatError("Only start, pause and step are known.")
        self._stage().go(going)  # type: ignore[arg-type]
        return "/"

    def take(self, fields: dict[str, str]) -> str:
        """Somebody sits down."""
        cell = (fields.get("recommender", ""), forms.number(fields, "seed"))
        self._stage().take(cell, forms.number(fields, "user"))
        return "/seat"

    def leave(self, fields: dict[str, str]) -> str:
        """The seat is given back."""
        self._stage().leave()
        return "/seat"

    def answer(self, fields: dict[str, str]) -> str:
        """The person has reacted to a page."""
        self._stage().answer(forms.moment(fields), forms.reaction(fields))
        return "/seat"

    def refused(self, request: Request, error: Exception) -> Response:
        """What was asked for cannot be done; the page's script shows the bare words."""
        if "text/html" not in request.headers.get("accept", ""):
            return PlainTextResponse(str(error), 400)
        return self._html(request, "refused.html", 400, text=str(error))

    def missing(self, request: Request, error: Exception) -> Response:
        """There is no such page."""
        assert isinstance(error, HTTPException)
        text = error.detail if error.detail != "Not Found" else "There is no such page."
        return self._html(request, "refused.html", error.status_code, text=text)


def _whole(request: Request, name: str, default: int) -> int:
    """A whole number of the query."""
    text = request.query_params.get(name, "")
    if text and not text.isdecimal():
        raise HTTPException(404, f"{name}: a whole number is needed.")
    return int(text) if text else default


def _link(site: Site, cell: tuple[str, int], user: int, **query: Any) -> str:
    """Address of a user's page."""
    run = site.run()
    assert run is not None, "users are linked from runs"
    return f"/users/{user}?{urlencode({'cell': run.cells.index(cell), **query})}"
