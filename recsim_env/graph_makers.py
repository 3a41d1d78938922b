"""Graphs of acquaintances by name: from a scenario's ``population`` to who knows whom.

Generators depend on keyed draws alone. ``watts-strogatz`` is a small world (Watts and Strogatz, "Collective dynamics
of small-world networks", 1998), ``barabasi-albert`` grows by preferential attachment (Barabási and Albert, "Emergence
of scaling in random networks", 1999; the linear-time form of Batagelj and Brandes, 2005), ``homophilous`` joins the
like-minded: everybody meets some random people and keeps those who are most like it (after McPherson, Smith-Lovin and
Cook, "Birds of a feather", 2001). Pairs that a generator makes twice count once, so the mean degree may fall a little
short of what was asked for.
"""

from __future__ import annotations

import numpy as np

from recsim_env.draws import Draws
from recsim_env.errors import ScenarioError
from recsim_env.graphs import Graph, read_graph, rows_by_name
from recsim_env.records import FloatArray, TextArray
from recsim_env.scenario import PopulationSection

MET = 64
"""homophilous: people whom everybody meets before it chooses its acquaintances."""
BLOCK = 2048
"""homophilous: users whose likeness to those they met is computed at once."""


def make_graph(
    section: PopulationSection,
    user_id: TextArray,
    draws: Draws,
    leanings: FloatArray | None = None,
    names: TextArray | None = None,
) -> Graph | None:
    """The graph that a scenario names; None where nobody knows anybody.

    Args:
        section: Settings.
        user_id: str objects (U,).
        draws: Draws of the replication.
        leanings: float (U, C), what users like, for ``homophilous``.
        names: str objects (U,), what users are called beside their ids.

    Raises:
        ScenarioError: If a file cannot be used, there are too few users, or nothing is known of what they like.
    """
    n = len(user_id)
    if section.graph == "none":
        return None
    if section.file is not None:
        rows = rows_by_name(user_id, names) if section.match == "names" else None
        graph = read_graph(section.file, rows, n, "population.graph")
    elif n <= section.degree:
        raise ScenarioError(
            f"population.degree: {n} users cannot have {section.degree} acquaintances each. Take more users "
            "(users.count), or a smaller degree."
        )
    elif section.graph == "watts-strogatz":
        graph = watts_strogatz(n, section.degree, section.rewiring, draws)
    elif section.graph == "barabasi-albert":
        graph = barabasi_albert(n, section.degree, draws)
    elif leanings is None:
        raise ScenarioError("population.graph: these users do not say what they like, so 'homophilous' has no meaning.")
    else:
        graph = homophilous(leanings, section.degree, section.homophily, draws)
    return graph.seated(draws.permutation("seats", n)) if section.shuffled else graph


def watts_strogatz(n_users: int, degree: int, rewiring: float, draws: Draws) -> Graph:
    """A ring on which everybody knows its ``degree`` nearest, each tie rewired with a probability.

    A tie that would be rewired to a user whom its owner knows on the ring, or to itself, stays as it is.
    """
    reach = np.arange(1, min(degree // 2, (n_users - 1) // 2) + 1)
    first = np.repeat(np.arange(n_users), len(reach))
    near = (first + np.tile(reach, n_users)) % n_users
    keys = draws.keys("rewire", np.arange(n_users))
    luck = Draws.uniforms(keys, reach).ravel()
    far = (Draws.bits(keys, len(reach) + reach) % np.uint64(n_users)).astype(np.int64).ravel()
    apart = np.minimum((far - first) % n_users, (first - far) % n_users)
    second = np.where((luck < rewiring) & (apart > len(reach)), far, near)
    return Graph.of(first, second, n_users)


def barabasi_albert(n_users: int, degree: int, draws: Draws) -> Graph:
    """Users come one after another and tie themselves to ``degree // 2`` others, popular ones more often."""
    each = degree // 2
    lanes = Draws.bits(draws.keys("attach", np.arange(n_users)), np.arange(each))
    place = 2 * np.arange(n_users * each, dtype=np.uint64) + np.uint64(1)
    picks = (lanes.ravel() % place).astype(np.int64).tolist()
    ends = [0] * (2 * n_users * each)
    for tie, pick in enumerate(picks):  # an end of an earlier tie: drawn in proportion to the degree
        ends[2 * tie] = tie // each
        ends[2 * tie + 1] = ends[pick]
    pairs = np.array(ends, np.int64).reshape(-1, 2)
    return Graph.of(pairs[:, 0], pairs[:, 1], n_users)


def homophilous(leanings: FloatArray, degree: int, homophily: float, draws: Draws) -> Graph:
    """Everybody meets 64 random users (all, where there are no more) and ties itself to ``degree // 2`` of them.

    User v is taken by u with log-weight ``homophily * cos(x_u, x_v)``, where x are leanings less their mean; without
    replacement, by the largest of log-weight plus Gumbel noise. 0 is a random graph.

    Args:
        leanings: float (U, C), what each user likes of each category.
        degree: Mean number of acquaintances.
        homophily: Strength.
        draws: Source of meetings and choices.
    """
    n = len(leanings)
    x = leanings - leanings.mean(axis=0)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    n_met, each = min(MET, n - 1), degree // 2
    found = []
    for start in range(0, n, BLOCK):
        who = np.arange(start, min(start + BLOCK, n))
        if n_met == n - 1:
            met = (who[:, None] + np.arange(1, n)) % n
        else:
            bits = Draws.bits(draws.keys("meet", who), np.arange(n_met))
            met = (who[:, None] + 1 + (bits % np.uint64(n - 1)).astype(np.int64)) % n
        weight = homophily * np.einsum("nmc,nc->nm", x[met], x[who])
        weight += Draws.gumbels(draws.keys("tie", who), met)
        found.append(np.take_along_axis(met, np.argsort(-weight, axis=1, kind="stable")[:, :each], axis=1))
    chosen = np.concatenate(found)
    return Graph.of(np.repeat(np.arange(n), chosen.shape[1]), chosen.ravel(), n)
