"""What people like, fitted on ratings: biases, factors, stars, genre affinity, and a distribution of new people.

The latent score of user u for item i is ``s = mean + b_u + b_i + p_u . q_i`` (Koren, Bell and Volinsky, "Matrix
factorization techniques for recommender systems", 2009). Factors come from alternating least squares with the
regularisation scaled by the number of ratings (Zhou et al., "Large-scale parallel collaborative filtering", 2008).

Stars come from an ordered probit over the score (McCullagh, "Regression models for ordinal data", 1980):
``P(star <= g) = Phi((c_g - s) / sigma_u)`` with cut points common to all users, fitted so that the histogram of
stars is the data's, and a noise of each user's own.

Whether somebody would pick an item at all is learned from who rated what, stars aside, by correspondence analysis
(Greenacre, "Theory and applications of correspondence analysis", 1984): ``h_u . g_i`` is the lift, how much more often
than by popularity alone such a user meets such an item, minus 1.

Simplifications: biases are fitted before the factors and then kept; nothing changes with time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.linalg import svd
from scipy.sparse import linalg
from scipy.special import ndtr

from recsim_env.draws import Draws
from recsim_env.records import Catalog, Dataset, FloatArray, IntArray, Ratings

N_NOISE_LEVELS = 8
"""Users' noise is rounded to this many values, so that expected stars can be looked up in a table."""
TABLE_POINTS = 1024
SHRINK = 10.0
"""Ratings whose weight pulls a user's or an item's lift towards none."""


@dataclass(frozen=True, slots=True, eq=False)
class Tastes:
    """Parameters of users, one row each.

    Attributes:
        bias: float32 (U,), b_u.
        factors: float32 (U, F), p_u.
        interest: float32 (U, H), h_u.
        affinity: float32 (U, C), log ratio of the share of a category in the user's history to its share overall,
            shrunk towards 0.
        activity: float32 (U,), standardised logarithm of the number of ratings.
        noise: int64 (U,), index of the user's rating noise in ``Preferences.noise_levels``.
    """

    bias: FloatArray
    factors: FloatArray
    interest: FloatArray
    affinity: FloatArray
    activity: FloatArray
    noise: IntArray

    def take(self, rows: IntArray) -> Tastes:
        """The parameters of some users."""
        return Tastes(*(getattr(self, name)[rows] for name in Tastes.__slots__))


@dataclass(frozen=True, slots=True, eq=False)
class Preferences:
    """The fitted world.

    Attributes:
        mean: Mean rating.
        item_bias: float32 (I,), b_i.
        item_factors: float32 (I, F), q_i.
        item_interest: float32 (I, H), g_i.
        tastes: The data set's users.
        levels: float32 (G,), the ratings that can be given.
        cuts: float32 (G - 1,), c_g.
        noise_levels: float32 (8,), the values of sigma_u.
        score_mean: Mean of the score over the ratings fitted on.
        score_sd: Its standard deviation.
        expected_table: float32 (8, 1024), expected star by noise and score, see :meth:`expected`.
    """

    mean: float
    item_bias: FloatArray
    item_factors: FloatArray
    item_interest: FloatArray
    tastes: Tastes
    levels: FloatArray
    cuts: FloatArray
    noise_levels: FloatArray
    score_mean: float
    score_sd: float
    expected_table: FloatArray

    def scores(self, tastes: Tastes, users: IntArray, items: IntArray) -> FloatArray:
        """Latent scores s of pairs (rows of ``tastes``, item indices), float32 (R,)."""
        dot = np.einsum("rf,rf->r", tastes.factors[users], self.item_factors[items])
        return np.asarray(self.mean + tastes.bias[users] + self.item_bias[items] + dot, np.float32)

    def expected(self, scores: FloatArray, noise: IntArray) -> FloatArray:
        """Expected star E[r | s], looked up: error below a thousandth of the scale.

        Args:
            scores: float (...), latent scores.
            noise: int (...), index of the noise level, same shape.
        """
        low, step = self.table_grid()
        cell = (scores - np.float32(low - 0.5 * step)) * np.float32(1.0 / step)
        np.clip(cell, 0, TABLE_POINTS - 1, out=cell)
        index = cell.astype(np.int32)
        index += noise.astype(np.int32) * np.int32(TABLE_POINTS)
        return self.expected_table.ravel().take(index)

    def table_grid(self) -> tuple[float, float]:
        """First score and step of ``expected_table``; it reaches half the scale's width beyond both ends."""
        width = float(self.levels[-1] - self.levels[0])
        return float(self.levels[0]) - 0.5 * width, 2.0 * width / (TABLE_POINTS - 1)

    def _at_most(self, scores: FloatArray, noise: IntArray) -> FloatArray:
        """P(star <= level g) but for the last level, (R, G - 1)."""
        return np.asarray(ndtr((self.cuts - scores[:, None]) / self.noise_levels[noise][:, None]))

    def star_shares(self, scores: FloatArray, noise: IntArray) -> FloatArray:
        """Probability of each star, float32 (R, G)."""
        return np.diff(self._at_most(scores, noise), axis=1, prepend=0.0, append=1.0).astype(np.float32)

    def stars(self, scores: FloatArray, noise: IntArray, luck: FloatArray) -> FloatArray:
        """Stars drawn with the given uniform luck, float32 (R,)."""
        at_most = self._at_most(scores, noise)
        return np.asarray(self.levels[(luck[:, None] > at_most).sum(axis=1)], np.float32)

    def draw_tastes(self, n: int, draws: Draws) -> Tastes:
        """New people, see :func:`draw_tastes`."""
        return draw_tastes(self.tastes, self.noise_levels, n, draws)


def draw_tastes(known: Tastes, noise_levels: FloatArray, n: int, draws: Draws) -> Tastes:
    """New people from a normal distribution fitted on the data set's users; nobody is a copy of anybody.

    The t-th new person is the same however many are drawn.
    """
    columns = {name: getattr(known, name) for name in Tastes.__slots__}
    columns["noise"] = np.log(noise_levels[known.noise])
    table = np.column_stack(list(columns.values()))
    centre, spread = table.mean(axis=0), np.cov(table, rowvar=False)
    root = np.linalg.cholesky(spread + 1e-6 * np.eye(len(centre)))
    luck = draws.normals(draws.keys("taste", np.arange(n)), np.arange(len(centre)))
    drawn = (centre + luck @ root.T).astype(np.float32)
    drawn = np.clip(drawn, table.min(axis=0), table.max(axis=0))  # nobody is stranger than everybody known
    ends = np.cumsum([column[0].size for column in columns.values()])[:-1]
    new = {
        name: part.reshape(n, *column.shape[1:])
        for (name, column), part in zip(columns.items(), np.split(drawn, ends, axis=1), strict=True)
    }
    new["noise"] = nearest(noise_levels, np.exp(new["noise"]))
    return Tastes(**new)


PENALTIES = (0.07, 0.15, 0.3, 0.6, 1.2, 2.5)
"""Penalties that are tried where none is given, in this order, until the held-out error rises."""


def fit_preferences(
    dataset: Dataset, draws: Draws, n_factors: int = 8, n_interests: int = 8, regularisation: float | None = None
) -> Preferences:
    """Fits the world on all ratings of a data set.

    A tenth of the ratings is held out first, to learn how large the noise around a score is where the score was not
    fitted to the very rating; the returned parameters are then fitted on everything.

    Args:
        dataset: Ratings of real people.
        draws: For the held-out tenth and the factors' start.
        n_factors: F.
        n_interests: H; fewer where the data set is smaller.
        regularisation: Penalty of the factors, times each user's or item's number of ratings; None chooses it on
            the held-out tenth.
    """
    ratings = dataset.ratings
    lane = np.arange(len(ratings))
    held = draws.uniforms(draws.keys("preference-holdout", 0), lane)[0] < 0.1
    test = ratings.take(held)
    regularisation, test_scores = _choose_penalty(ratings.take(~held), test, dataset, draws, n_factors, regularisation)
    mean, user_bias, item_bias, users, items = _factorise(ratings, dataset, draws, n_factors, regularisation)
    levels = dataset.catalog.scale.levels
    noise_levels, noise = rating_noise(test, test_scores, dataset.n_users)
    cuts = cut_points(test_scores, noise_levels[noise[test.user_index]], test.rating, levels)
    interest, item_interest = interests(ratings, dataset, draws, n_interests)
    activity = activities(ratings, dataset.n_users)
    tastes = Tastes(user_bias, users, interest, affinities(dataset), activity, noise)
    full = _score((mean, user_bias, item_bias, users, items), ratings)
    table = np.zeros((N_NOISE_LEVELS, TABLE_POINTS), np.float32)
    centre, spread = float(full.mean()), float(full.std())
    world = Preferences(
        mean, item_bias, items, item_interest, tastes, levels, cuts, noise_levels, centre, spread, table
    )  # fmt: skip
    low, step = world.table_grid()
    grid = low + step * np.arange(TABLE_POINTS)
    above = ndtr((grid[None, :, None] - cuts) / noise_levels[:, None, None])  # P(star > g)
    world.expected_table[:] = levels[0] + above @ np.diff(levels)
    return world


def _choose_penalty(
    train: Ratings, test: Ratings, dataset: Dataset, draws: Draws, n_factors: int, given: float | None
) -> tuple[float, FloatArray]:
    """The penalty with the smallest held-out error, and the held-out scores under it."""
    best, best_scores, best_error = 0.0, np.empty(0, np.float32), np.inf
    for penalty in PENALTIES if given is None else (given,):
        scores = _score(_factorise(train, dataset, draws, n_factors, penalty), test)
        error = float(np.mean((scores - test.rating) ** 2))
        if error >= best_error:
            break
        best, best_scores, best_error = penalty, scores, error
    return best, best_scores


Factorised = tuple[float, FloatArray, FloatArray, FloatArray, FloatArray]


def _score(parts: Factorised, ratings: Ratings) -> FloatArray:
    mean, user_bias, item_bias, users, items = parts
    u, i = ratings.user_index, ratings.item_index
    return np.asarray(mean + user_bias[u] + item_bias[i] + np.einsum("rf,rf->r", users[u], items[i]), np.float32)


def _factorise(ratings: Ratings, dataset: Dataset, draws: Draws, n_factors: int, regularisation: float) -> Factorised:
    n_users, n_items = dataset.n_users, dataset.n_items
    u, i = ratings.user_index, ratings.item_index
    mean, user_bias, item_bias = fit_biases(ratings, n_users, n_items)
    residual = ratings.rating - mean - user_bias[u] - item_bias[i]
    known = sparse.csr_array((np.ones(len(u), np.float32), (u, i)), shape=(n_users, n_items))
    values = sparse.csr_array((residual.astype(np.float32), (u, i)), shape=(n_users, n_items))
    known_t, values_t = known.T.tocsr(), values.T.tocsr()
    items = 0.1 * draws.normals(draws.keys("factors", np.arange(n_items)), np.arange(n_factors))
    users = np.zeros((n_users, n_factors), np.float32)
    for _ in range(8):
        users = _least_squares(known, values, items, regularisation)
        items = _least_squares(known_t, values_t, users, regularisation)
    return mean, user_bias, item_bias, users, items


def fit_biases(
    ratings: Ratings, n_users: int, n_items: int, shrink_user: float = 5.0, shrink_item: float = 5.0
) -> tuple[float, FloatArray, FloatArray]:
    """Mean, user biases float32 (U,) and item biases float32 (I,), by alternating shrunk means."""
    u, i, r = ratings.user_index, ratings.item_index, ratings.rating.astype(np.float64)
    mean = float(r.mean())
    n_u, n_i = np.bincount(u, minlength=n_users), np.bincount(i, minlength=n_items)
    b_u, b_i = np.zeros(n_users), np.zeros(n_items)
    for _ in range(10):
        b_i = np.bincount(i, r - mean - b_u[u], minlength=n_items) / (n_i + shrink_item)
        b_u = np.bincount(u, r - mean - b_i[i], minlength=n_users) / (n_u + shrink_user)
    return mean, b_u.astype(np.float32), b_i.astype(np.float32)


def _least_squares(
    known: sparse.csr_array, values: sparse.csr_array, other: FloatArray, regularisation: float
) -> FloatArray:
    """One half step of alternating least squares for all rows at once, float32 (rows, F).

    The normal equations of all rows are one product of a sparse matrix with the packed outer products.
    """
    f = other.shape[1]
    upper = np.triu_indices(f)
    packed = known @ (other[:, upper[0]] * other[:, upper[1]])
    normal = np.empty((known.shape[0], f, f), np.float32)
    normal[:, upper[0], upper[1]] = packed
    normal[:, upper[1], upper[0]] = packed
    counts = np.diff(known.indptr)
    normal[:, np.arange(f), np.arange(f)] += (regularisation * counts + 1e-3)[:, None]
    solved = np.linalg.solve(normal, (values @ other)[:, :, None])[:, :, 0]
    return np.asarray(solved, np.float32)


def interests(ratings: Ratings, dataset: Dataset, draws: Draws, n: int) -> tuple[FloatArray, FloatArray]:
    """Correspondence analysis of who rated what: h_u float32 (U, H) and g_i float32 (I, H).

    The first singular pair of the doubly scaled matrix is activity times popularity; what is left, divided by it, is
    lift - 1. Rare users and items are shrunk towards no lift.
    """
    shape = (dataset.n_users, dataset.n_items)
    rated = sparse.csr_array((np.ones(len(ratings)), (ratings.user_index, ratings.item_index)), shape=shape)
    rated.data[:] = 1.0
    n_user: FloatArray = rated.sum(axis=1)
    n_item: FloatArray = rated.sum(axis=0)
    scale_user, scale_item = 1.0 / np.sqrt(np.maximum(n_user, 1.0)), 1.0 / np.sqrt(np.maximum(n_item, 1.0))
    scaled = sparse.diags_array(scale_user) @ rated @ sparse.diags_array(scale_item)
    n = min(n, min(shape) - 2)
    start = draws.normals(draws.keys("interest", 0), np.arange(min(shape)))[0].astype(np.float64)
    left, strength, right = _largest_singular(scaled, n + 1, start, draws)
    order = np.argsort(-strength)[1:]
    total = float(n_user.sum())
    users = left[:, order] * strength[order] * np.sqrt(total / (n_user + SHRINK))[:, None]
    items = right[order].T * np.sqrt(total / (n_item + SHRINK))[:, None]
    return users.astype(np.float32), items.astype(np.float32)


def _largest_singular(
    matrix: sparse.csr_array, k: int, start: FloatArray, draws: Draws
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The k largest singular values with their vectors: (rows, k), (k,), (k, columns).

    What SciPy's ``svds`` computes. That gives ARPACK no generator, and where the Lanczos basis is exhausted (few kinds
    of users, groups without an item in common) ARPACK goes on from a random vector: the same data gave other tastes.
    """
    wide = matrix.shape[0] < matrix.shape[1]
    tall = (matrix.T if wide else matrix).tocsr()
    gram = linalg.LinearOperator((tall.shape[1],) * 2, matvec=lambda x: tall.T @ (tall @ x), dtype=np.float64)
    restarts = np.random.default_rng(draws.keys("interest-restart", 0))
    _, axes = linalg.eigsh(gram, k=k, v0=start, rng=restarts)
    axes, _ = np.linalg.qr(axes)  # ARPACK's are not quite orthogonal where values are near to each other
    left, strength, right = svd(tall @ axes, full_matrices=False)
    right = right @ axes.T
    return (right.T, strength, left.T) if wide else (left, strength, right)


def rating_noise(test: Ratings, scores: FloatArray, n_users: int, shrink: float = 10.0) -> tuple[FloatArray, IntArray]:
    """Values of sigma and each user's index into them, from held-out residuals shrunk towards everybody's."""
    squared = (test.rating - scores).astype(np.float64) ** 2
    overall = squared.mean()
    n = np.bincount(test.user_index, minlength=n_users)
    own = (np.bincount(test.user_index, squared, minlength=n_users) + shrink * overall) / (n + shrink)
    sigma = np.sqrt(own)
    edges = np.quantile(sigma, (np.arange(N_NOISE_LEVELS) + 0.5) / N_NOISE_LEVELS)
    levels = np.maximum(edges, 1e-3).astype(np.float32)
    return levels, nearest(levels, sigma)


def nearest(levels: FloatArray, values: FloatArray) -> IntArray:
    """Index of the nearest level to each value, int64, same shape as ``values``."""
    return np.argmin(np.abs(values[:, None] - levels), axis=1)


def cut_points(scores: FloatArray, sigma: FloatArray, ratings: FloatArray, levels: FloatArray) -> FloatArray:
    """Cut points c_g that give the data's share of ratings at or below each level, by bisection."""
    width = float(levels[-1] - levels[0])
    low = np.full(len(levels) - 1, float(levels[0]) - 6 * width)
    high = np.full(len(levels) - 1, float(levels[-1]) + 6 * width)
    share = (ratings[:, None] <= levels[:-1] + 1e-4).mean(axis=0)
    for _ in range(40):
        middle = 0.5 * (low + high)
        too_low = ndtr((middle - scores[:, None]) / sigma[:, None]).mean(axis=0) < share
        low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
    return (0.5 * (low + high)).astype(np.float32)


def category_weights(catalog: Catalog) -> FloatArray:
    """Share of each item that belongs to each category, float32 (I, C); rows sum to 1, or 0 without category."""
    flags = catalog.item_categories.astype(np.float32)
    return flags / np.maximum(flags.sum(axis=1, keepdims=True), 1.0)


def usual_categories(catalog: Catalog) -> FloatArray:
    """Share of each category in what people watch, float64 (C,)."""
    return np.asarray(catalog.popularity @ category_weights(catalog) / max(int(catalog.popularity.sum()), 1))


def category_spread(catalog: Catalog) -> FloatArray:
    """Square root of the covariance of items' category shares, items weighted by popularity, float32 (C, C)."""
    weights = category_weights(catalog).astype(np.float64) - usual_categories(catalog)
    covariance = weights.T @ (weights * catalog.popularity[:, None]) / max(int(catalog.popularity.sum()), 1)
    sizes, axes = np.linalg.eigh(covariance)
    return np.asarray((axes * np.sqrt(np.maximum(sizes, 0.0))) @ axes.T, np.float32)


def affinities(dataset: Dataset, shrink: float = 10.0) -> FloatArray:
    """Genre affinity of users, float32 (U, C), as in :class:`Tastes`."""
    weights = category_weights(dataset.catalog)
    u, i = dataset.ratings.user_index, dataset.ratings.item_index
    seen = sparse.csr_array((np.ones(len(u), np.float32), (u, i)), shape=(dataset.n_users, dataset.n_items))
    counts = seen @ weights
    total = counts.sum(axis=0)
    share = (total + 1.0) / (total + 1.0).sum()
    own = (counts + shrink * share) / (counts.sum(axis=1, keepdims=True) + shrink)
    return np.clip(np.log(own / share), -2.0, 2.0).astype(np.float32)


def activities(ratings: Ratings, n_users: int) -> FloatArray:
    """Standardised logarithm of the users' numbers of ratings, float32 (U,)."""
    log_count = np.log1p(np.bincount(ratings.user_index, minlength=n_users))
    return ((log_count - log_count.mean()) / max(float(log_count.std()), 1e-6)).astype(np.float32)
