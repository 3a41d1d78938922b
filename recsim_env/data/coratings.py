"""Who rated what together: the matrix of ratings without stars, and the linear model that predicts it from itself.

Recommenders serve with it, and hybrid users have it in their prior.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from recsim_env.records import Dataset, FloatArray


def interaction_matrix(dataset: Dataset) -> sparse.csr_array:
    """Who rated or clicked what, float32 (U, I) of zeros and ones; stars do not matter."""
    ratings = dataset.ratings
    ones = np.ones(len(ratings), np.float32)
    shape = (dataset.n_users, dataset.n_items)
    matrix = sparse.coo_array((ones, (ratings.user_index, ratings.item_index)), shape=shape).tocsr()
    matrix.data[:] = 1.0  # the conversion adds up items that a user clicked again
    return matrix


def ease_weights(matrix: sparse.csr_array, regularisation: float) -> FloatArray:
    """Item-to-item weights of EASE (Steck, "Embarrassingly shallow autoencoders", WWW 2019), float32 (I, I).

    ``P = (X'X + lambda I)^-1``, ``B_ij = -P_ij / P_jj`` off the diagonal and 0 on it. Inverts in float64: I * I floats
    of memory and I ** 3 multiplications.

    Args:
        matrix: X, float32 (U, I), as :func:`interaction_matrix` gives it.
        regularisation: Lambda.
    """
    gram = (matrix.T @ matrix).toarray(order="F").astype(np.float64)
    gram[np.diag_indices_from(gram)] += regularisation
    # The Gram matrix is positive definite, so Cholesky: half the work of a general inverse, and in place.
    factor, failed = lapack.dpotrf(gram, lower=1, overwrite_a=1)
    assert not failed, "X'X + lambda I is positive definite"
    lower, _ = lapack.dpotri(factor, lower=1, overwrite_c=1)
    weights = (np.tril(lower) + np.tril(lower, -1).T) / -np.diag(lower)
    np.fill_diagonal(weights, 0.0)
    return np.ascontiguousarray(weights, np.float32)
