"""The store of opinions against a dictionary."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsim_env.agents.opinions import OpinionStore

U, N_ITEMS = 6, 9
EVENING = st.lists(st.tuples(st.integers(0, U - 1), st.integers(0, N_ITEMS - 1), st.integers(1, 5)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENING, max_size=5), st.sets(st.integers(0, U - 1)))
def test_the_store_is_a_dictionary(evenings, forgotten):
    store, known = OpinionStore(U, N_ITEMS), {}
    for evening in evenings:
        receiver, item, stars = (np.array([e[i] for e in evening], np.int64) for i in range(3))
        store.add(receiver, item, stars.astype(np.float32), (stars - 3) / 2)
        for r, i, s in evening:
            known.setdefault((r, i), []).append(s)
    rows, items = (part.ravel() for part in np.meshgrid(np.arange(U), np.arange(N_ITEMS + 1), indexing="ij"))
    for _ in range(2):
        assert (np.diff(store.keys) > 0).all()
        assert len(store) == len(known)
        hit, place = store.heard(rows, items)
        found = {
            (int(r), int(i)): (int(store.count[p]), store.stars[p], store.valence[p])
            for r, i, p in zip(rows[hit], items[hit], place, strict=True)
        }
        want = {pair: (len(s), sum(s), sum((x - 3) / 2 for x in s)) for pair, s in known.items()}
        assert found == want
        store.forget(np.array(sorted(forgotten), np.int64))
        known = {pair: s for pair, s in known.items() if pair[0] not in forgotten}


def test_an_empty_store_has_heard_nothing():
    hit, place = OpinionStore(U, N_ITEMS).heard(np.arange(U), np.zeros(U, np.int64))
    assert hit.size == place.size == 0
