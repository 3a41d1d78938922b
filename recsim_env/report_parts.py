"""Parts of the report: a run's record, tables of figures, a few sessions, what was said; every text is escaped here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from recsim_env.evaluation.said import Said
from recsim_env.evaluation.story import Page, Shown, Story
from recsim_env.evaluation.summary import Metric
from recsim_env.evaluation.trends import Trends
from recsim_env.records import MessageKind, NextAction

_ACTIONS = {
    NextAction.NEXT: "goes on to the next page",
    NextAction.SEARCH: "searches",
    NextAction.INSTRUCT: "tells the recommender what to change",
    NextAction.LEAVE: "leaves",
}


def banner(manifest: Mapping[str, Any]) -> str:
    """A visible warning where the run did not reach its end, "" where it did."""
    status = str(manifest.get("status", "unknown"))
    scenario = manifest["scenario"]
    planned = len(scenario.get("recommenders", ())) * int(scenario.get("replications", 1))
    done = len(manifest.get("cells", ()))
    if status == "complete" and done >= planned:
        return ""
    what = f"all {planned}" if done >= planned else f"{done} of {planned}"
    which = (
        f"The figures are of the {what} combinations of recommender and seed that reached the last day."
        if done
        else "No recommender reached the last day: the figures go up to the last stored day and compare nothing fairly."
    )
    error = f"<span>{escape(str(manifest['error']))}</span>" if manifest.get("error") else ""
    return f'<div class="banner" role="alert">This run is not complete (status: {escape(status)}). {which}{error}</div>'


def facts(manifest: Mapping[str, Any], n_cells: int) -> str:
    """What was run, on what, with what."""
    scenario, data = manifest["scenario"], manifest.get("data", {})
    users, git = scenario.get("users", {}), manifest.get("git") or {}
    hardware = manifest.get("hardware", {})
    commit = f"{git['commit'][:12]}{' with local changes' if git.get('dirty') else ''}" if git.get("commit") else None
    size = [f"{data[f'n_{what}']:,} {what}" for what in ("users", "items", "ratings") if f"n_{what}" in data]
    rows = {
        "Scenario": " – ".join(filter(None, [str(scenario.get("name", "")), str(scenario.get("description", ""))])),
        "Data": f"{data.get('name', 'unknown')} ({', '.join(size)})" if size else data.get("name"),
        "Simulated users": f"{users.get('count', '?')}, model {users.get('model', '?')}",
        "Length": f"{scenario.get('days', '?')} days, pages of {scenario.get('slate_size', '?')} items",
        "Seeds": ", ".join(str(seed) for seed in manifest.get("seeds", [])) or scenario.get("seed"),
        "Compared": f"{n_cells} combinations of recommender and seed",
        "Persons": "; ".join(
            f"user {one['user']} under {one['recommender']}, seed {one['seed']}: {one['pages']} pages"
            for one in manifest.get("people", ())
        ),
        "Status": manifest.get("status"),
        "Started": manifest.get("started"),
        "Took": f"{manifest['seconds']:,.0f} s" if manifest.get("seconds") is not None else None,
        "Hardware": ", ".join(f"{v} {_HARDWARE.get(k, '')}".strip() for k, v in hardware.items() if v is not None)
        if isinstance(hardware, Mapping)
        else hardware,
        "Versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        "Code": commit or manifest.get("git_commit"),
    }
    lines = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items() if v not in (None, ""))
    return f'<dl class="facts">{lines}</dl>'


_SAID = {
    "search": "searches", "instruct": "tells the recommender", "answer": "answers", "comment": "comments on",
    "chat": "chats with", "post": "posts to",
}  # fmt: skip
_LENGTH = 300
"""Characters of a sample message that are shown."""


_HARDWARE = {"cores": "cores", "memory_gib": "GiB memory"}


def said(counts: pd.DataFrame) -> str:
    """Table of message counts, as :func:`recsim_env.evaluation.said.message_counts` gives them."""
    titles = {
        "pages": "Pages", "searches": "Users' searches", "instructions": "Users' instructions",
        "answers": "Recommender's answers", "comments": "Comments", "chats": "Chats", "posts": "Posts",
        "fallbacks": "Fallbacks of the user model",
    }  # fmt: skip
    head = "".join(f"<th>{title}</th>" for title in titles.values())
    rows = "".join(
        f"<tr><th>{escape(str(name))}</th>{''.join(f'<td>{int(row[column]):,}</td>' for column in titles)}</tr>"
        for name, row in counts.iterrows()
    )
    head = f'<table class="counts"><thead><tr><th></th>{head}</tr></thead>'
    return f'<div class="wide">{head}<tbody>{rows}</tbody></table></div>'


def messages(samples: Sequence[Said], of_run: str = "") -> str:
    """A few messages of every kind; ``of_run`` is HTML that names the run where there are several."""
    if not samples:
        return ""
    bubbles = "".join(_message(said) for said in samples)
    return f"<h3>A few of the messages{of_run}</h3>{bubbles}"


def _message(said: Said) -> str:
    to = "" if said.kind in ("search", "instruct") else f" {said.to}"
    where = f"day {said.day}" + (f", page {said.turn + 1}" if said.turn >= 0 else ", in the evening")
    under = "" if said.kind == "answer" else f"under {said.recommender}, "
    text = said.text if len(said.text) <= _LENGTH else said.text[:_LENGTH].rstrip() + " …"
    side = "recommender" if said.kind == "answer" else "user"
    return (
        f'<div class="said {side}"><b>{escape(said.speaker)}</b> {escape(_SAID[said.kind] + to)}: “{escape(text)}”'
        f"<small>{escape(under)}seed {said.seed}, {where}</small></div>"
    )


def sessions(stories: Sequence[Story]) -> str:
    """Some sessions, the first one open."""
    first, *others = stories
    return session(first) + "".join(_folded(story) for story in others)


def _folded(story: Story) -> str:
    summary = f"{_headline(story)}: {_count(len(story.visit.pages), 'page')}"
    return f"<details><summary>{escape(summary)}</summary>{session(story)}</details>"


def _headline(story: Story) -> str:
    who = story.person
    return f"{who.title} under {who.recommender}, seed {who.seed}, day {story.visit.day}"


def session(story: Story) -> str:
    """One session page by page."""
    person, visit = story.person, story.visit
    profile = ", ".join(f"{name}: {value}" for name, value in person.profile.items())
    past = "; ".join(f"{title}{f' ({stars:g} stars)' if stars is not None else ''}" for title, stars in person.past)
    n_messages = sum(page.next_message is not None for page in visit.pages)
    n_answers = sum(page.answer is not None for page in visit.pages)
    end = "After this session the user stopped for good." if visit.churned else ""
    lines = [
        f"{_headline(story)}.",
        f"Profile: {profile}." if profile else "",
        f"Last in the history: {past}." if past else "No history.",
        f"{_count(len(visit.pages), 'page')}, {_count(n_messages, 'message')} of the user, "
        f"{_count(n_answers, 'answer')} of the recommender. {end}",
    ]
    head = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    return head + "".join(_page(page, number) for number, page in enumerate(visit.pages, start=1))


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"


def _page(page: Page, number: int) -> str:
    by = " (catalogue search)" if page.searched else ""
    verb = "searched for" if page.message_kind == MessageKind.SEARCH else "asked"
    rows = "".join(_item(item, place) for place, item in enumerate(page.items, start=1))
    mood, trust = round(page.mood, 2) + 0.0, round(page.trust, 2) + 0.0  # no "-0.00"
    after = f"Mood {mood:+.2f}, boredom {page.boredom:.2f}, trust {trust:+.2f}. The user ".replace("-", "−")
    after += _ACTIONS[page.next_action] + "."
    after += " A reply of the user's model could not be used here; a substitute stands in its place." * page.fallback
    return (
        f'<div class="page"><h3>Page {number}{by}</h3>'
        f"{_bubble('user', f'The user {verb}', page.message)}{_bubble('recommender', 'Recommender', page.answer)}"
        '<div class="wide"><table><thead><tr><th>#</th><th class="text">Title</th><th class="text">Genres</th>'
        '<th class="text">Looked at</th><th class="text">Clicked</th><th>Watched</th><th>Stars</th></tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="soft">{escape(after)}</p>'
        f"{_bubble('user', 'Thinks', page.thoughts)}"
        # A message that leads to another page stands at the top of that page.
        f"{_bubble('user', 'Says', page.next_message) if page.next_action == NextAction.LEAVE else ''}</div>"
    )


def _bubble(who: str, label: str, text: str | None) -> str:
    return f'<div class="said {who}"><b>{label}:</b> {escape(text)}</div>' if text else ""


def _item(item: Shown, place: int) -> str:
    kind = "clicked" if item.clicked else "" if item.looked_at else "unseen"
    comment = f"<small>“{escape(item.comment)}”</small>" if item.comment else ""
    watched = f"{item.watched_fraction:.0%}" if item.clicked else ""
    marks = ", ".join(word for word, holds in (("liked", item.liked), ("shared", item.shared)) if holds)
    watched += f"<small>{marks}</small>" if marks else ""
    stars = f"{item.stars:g} ★" if item.stars is not None else ""
    looked, clicked = ("yes" if item.looked_at else "no"), ("yes" if item.clicked else "")
    return (
        f'<tr class="{kind}"><td>{place}</td><td class="text">{escape(item.name)}{comment}</td>'
        f'<td class="text">{escape(", ".join(item.categories))}</td><td class="text">{looked}</td>'
        f'<td class="text">{clicked}</td><td>{watched}</td><td>{stars}</td></tr>'
    )


GROUPS = {"clicks_per_turn": "Engagement", "retention": "Return", "ndcg": "Accuracy", "coverage": "Beyond accuracy"}


def metric_table(table: pd.DataFrame, metrics: Sequence[Metric], differences: bool = False) -> str:
    """A row for each metric that the table has, a column for each recommender, intervals under the figures."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in table.index)
    rows = []
    for metric in (m for m in metrics if m.name in table):
        if metric.name in GROUPS:
            rows.append(f'<tr class="group"><th colspan="{len(table) + 1}">{GROUPS[metric.name]}</th></tr>')
        unit = f"<small>{metric.unit}</small>" if metric.unit else ""
        cells = "".join(_cell(row, metric, differences) for _, row in table.iterrows())
        rows.append(f"<tr><th>{metric.title}{unit}</th>{cells}</tr>")
    return (
        f'<div class="wide"><table><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _cell(row: pd.Series[Any], metric: Metric, difference: bool) -> str:
    value, low, high = (float(row[metric.name + end]) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "<td>–</td>"
    sign = "+" if difference else ""
    interval = (
        ""
        if math.isnan(low) or math.isnan(high)
        else f"{low:{sign}.{metric.digits}f} to {high:{sign}.{metric.digits}f}"
    )
    mark, kind = "", ""
    if difference and (low > 0 or high < 0):
        mark, kind = ("▲ " if value > 0 else "▼ "), ' class="clear"'
    text = f"{mark}{value:{sign}.{metric.digits}f}<small>{interval}</small>".replace("-", "−")
    return f"<td{kind}>{text}</td>"


def trend_table(lists: Sequence[Trends], of_run: str = "") -> str:
    """What was watched most of late under each recommender, "" without any; ``of_run`` as in :func:`messages`."""
    if not lists:
        return ""
    head = "".join(f'<th class="text">{escape(one.cell[0])}<small>seed {one.cell[1]}</small></th>' for one in lists)
    rows = "".join(
        f"<tr><td>{rank + 1}</td>{''.join(_trend(one, rank) for one in lists)}</tr>"
        for rank in range(max(1, *(len(one.titles) for one in lists)))
    )
    head = f'<table class="counts"><thead><tr><th>Rank</th>{head}</tr></thead>'
    day, counted = lists[0].day, lists[0].counted
    stay = ""
    if day:
        stay = (
            " The table above has the share of an evening's titles that were on the list the evening before, too; mean "
            "over evenings."
        )
        if counted > 1:
            stay += f" Lists of successive evenings share {counted - 1} of {counted} days, so some titles stay anyway."
    when = f"the last {counted} days" if counted > 1 else "that day"
    return (
        f"<h3>Watched most of late{of_run}</h3>\n"
        f'<div class="wide">{head}<tbody>{rows}</tbody></table></div>\n'
        f'<p class="soft">What was watched most in {when}, and how often: the top of the list on the evening of day '
        f"{day}, the last one, under the first seed.{stay}</p>"
    )


def _trend(one: Trends, rank: int) -> str:
    if rank >= len(one.titles):
        return '<td class="text">–</td>'
    title, watched = one.titles[rank]
    return f'<td class="text">{escape(title)}<small>watched {watched:,} ×</small></td>'
