"""One page as text, for people."""

from __future__ import annotations

import numpy as np

from recsim_env.records import Catalog, Feedback, MessageKind, NextAction, ObservationBatch, SlateBatch


def page_text(catalog: Catalog, obs: ObservationBatch, slate: SlateBatch, feedback: Feedback, row: int) -> str:
    """What one user was shown and did: titles, clicks, watched shares, stars, and what comes next."""
    lines = [f"user {obs.user_index[row]}, day {obs.day[row]}, session {obs.session[row]}, page {obs.turn[row]}"]
    if obs.message[row] is not None:
        verb = "searched" if obs.message_kind[row] == MessageKind.SEARCH else "said"
        lines.append(f'  had {verb}: "{obs.message[row]}"')
    for position, item in enumerate(slate.items[row]):
        if item >= catalog.n_items:
            lines.append(f"{position + 1:3d}. (nothing left to show)")
            continue
        did = ""
        if feedback.clicked[row, position]:
            did = f"clicked, watched {feedback.watched_fraction[row, position]:.0%}"
            if not np.isnan(feedback.rating[row, position]):
                did += f", rated {feedback.rating[row, position]:g} of {catalog.scale.high:g}"
            did += ", liked" * bool(feedback.liked[row, position]) + ", shared" * bool(feedback.shared[row, position])
        lines.append(f"{position + 1:3d}. {str(catalog.title[item])[:48]:48s} {did}".rstrip())
    then = NextAction(feedback.next_action[row]).name.lower()
    words = feedback.message[row]
    lines.append(f"  then: {then}" + (f': "{words}"' if words else ""))
    return "\n".join(lines)
