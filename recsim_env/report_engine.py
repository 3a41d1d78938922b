"""The report's part on the language model: what it was asked, what it cost, how often it failed. All texts escaped."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

_PURPOSES = {
    "decisions": "All decisions",
    "words": "All words",
    "goal": "Goal of a visit",
    "watch": "Watch or skip",
    "list": "Which of the page",
    "fraction": "How much of it",
    "stars": "Mark",
    "like": "Like",
    "share": "Share",
    "comment": "Comment: whether, and the words",
    "next": "What next",
    "tell": "A last word before leaving",
    "mood": "Mood",
    "boredom": "Boredom",
    "answered": "Was the wish answered",
    "instruct": "Words to the recommender",
    "search": "Search words",
    "insight": "Insight at the end of a visit",
    "social": "Chat or post",
    "chat": "Words of a chat",
    "post": "Words of a post",
}
_KINDS = {"choose": "decisions", "generate": "words"}


def language_model(manifest: Mapping[str, Any], n_turns: int) -> str:
    """What a run asked of its language model.

    Args:
        manifest: Of the run; what older runs did not write down is left out.
        n_turns: User-turns in the run.

    Returns:
        HTML; "" where no model was asked.
    """
    engine = manifest.get("engine") or {}
    usage = engine.get("usage") or {}
    if not (engine.get("calls") or usage.get("stored") or sum((usage.get("requests") or {}).values())):
        return ""
    users = engine.get("users") or {}
    return _facts(engine, usage, users, n_turns) + _asked(users) + _bad_replies(users)


def _facts(engine: Mapping[str, Any], usage: Mapping[str, Any], users: Mapping[str, Any], n_turns: int) -> str:
    name, revision = engine.get("name"), engine.get("revision")
    rows = {
        "Engine": name,
        "Model": f"{engine['model']}{f', revision {revision}' if revision else ''}" if engine.get("model") else None,
        "Embedder": _settings(engine.get("embedder")),
        **_requests(engine, usage),
        **_tokens(engine, usage),
        **_rates(engine, usage, n_turns),
        **_failures(engine, usage),
        "Prompts": ", ".join(f"{family} {version}" for family, version in (users.get("prompts") or {}).items()),
    }
    lines = "".join(f"<dt>{k}</dt><dd>{escape(str(v))}</dd>" for k, v in rows.items() if v not in (None, ""))
    return f'<dl class="facts">{lines}</dl>'


def _settings(section: Any) -> str | None:
    """A plug-in's name, with its settings where it has any."""
    if not isinstance(section, Mapping):
        return None if section is None else str(section)
    rest = ", ".join(f"{name} {value}" for name, value in section.items() if name != "name")
    return f"{section.get('name', '')}{f' ({rest})' if rest else ''}"


def _requests(engine: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, str]:
    kinds = usage.get("requests") or {}
    total = sum(kinds.values()) if kinds else int(engine.get("calls", 0))
    parts = ", ".join(f"{n:,} {_KINDS.get(kind, kind)}" for kind, n in kinds.items())
    rows = {"Requests": f"{total:,} answered by the model{f' ({parts})' if parts else ''}"}
    if usage.get("stored") is not None:
        rows["From stored replies"] = f"{usage['stored']:,} more"
    return rows


def _tokens(engine: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if usage.get("prompt_tokens"):
        share = usage.get("cached_tokens", 0) / usage["prompt_tokens"]
        rows["Prompt tokens"] = f"{usage['prompt_tokens']:,}, of which {share:.0%} stood in an earlier prompt's start"
    written = usage.get("generated_tokens", engine.get("tokens"))
    if written is not None:
        rows["Tokens written"] = f"{written:,}"
    return rows


def _rates(engine: Mapping[str, Any], usage: Mapping[str, Any], n_turns: int) -> dict[str, str]:
    n_requests = sum((usage.get("requests") or {}).values()) or int(engine.get("calls", 0))
    tokens = usage.get("prompt_tokens", 0) + usage.get("generated_tokens", engine.get("tokens", 0))
    seconds, rows = usage.get("seconds"), {}
    if n_turns and n_requests:
        rows["Per user-turn"] = f"{n_requests / n_turns:,.1f} requests"
        rows["Per user-turn"] += f", {tokens / n_turns:,.0f} tokens (prompt and written)" if tokens else ""
        rows["Per user-turn"] += f"; {n_turns:,} user-turns"
    if seconds:
        rows["Time in the engine"] = f"{seconds:,.1f} s"
        rows["Time in the engine"] += f", {n_requests / seconds:,.1f} requests per second" if n_requests else ""
    return rows


def _failures(engine: Mapping[str, Any], usage: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    if usage.get("retries") is not None:
        rows["Retries of the engine"] = f"{usage['retries']:,}"
    kinds = usage.get("failures")
    if kinds is not None:
        parts = ", ".join(f"{n:,} {kind.replace('_', ' ')}" for kind, n in kinds.items())
        rows["Failed attempts"] = parts or "none"
    elif engine.get("failures") is not None:
        rows["Failed attempts"] = f"{engine['failures']:,}"
    return rows


def _asked(users: Mapping[str, Any]) -> str:
    """What users asked the model for, and which replies stayed bad after all retries."""
    asked, failed = users.get("asked") or {}, users.get("failed") or {}
    if not asked:
        return ""
    names = [*(name for name in _PURPOSES if name in asked), *sorted(set(asked) - set(_PURPOSES))]
    rows = []
    for name in names:
        n, bad = int(asked[name]), int(failed.get(name, 0))
        share = f"{bad / n:.2%}" if n else "–"
        title = escape(_PURPOSES.get(name, name))
        rows.append(f"<tr><th>{title}</th><td>{n:,}</td><td>{bad:,}</td><td>{share}</td></tr>")
    return (
        '<div class="wide"><table><thead><tr><th>Users asked it for</th><th>Requests</th><th>Stayed bad</th>'
        f"<th>Share</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="soft">Where a reply stayed bad after all retries, a stated substitute took its place and the row is '
        "flagged; docs/llm-users.md says which.</p>"
    )


def _bad_replies(users: Mapping[str, Any]) -> str:
    last = users.get("last_bad_replies") or ()
    if not last:
        return ""
    lines = "".join(f"<li>{escape(str(reply)[:200])}</li>" for reply in last)
    return f"<details><summary>The last bad replies</summary><ul>{lines}</ul></details>"
