"""RSLLM's parts against what can be said of them by hand, and the whole on worlds with a known answer."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from recsim_env.draws import Draws
from recsim_env.engine.base import ChatTokenizer
from recsim_env.errors import EngineError, MissingDependencyError, RecsimError
from recsim_env.lm.backbone import trainable
from recsim_env.recommenders.popularity import Popularity, PopularityConfig
from recsim_env.recommenders.rsllm import rank
from recsim_env.recommenders.rsllm.config import RSLLMConfig
from recsim_env.recommenders.rsllm.losses import combine, info_nce, language_loss
from recsim_env.recommenders.rsllm.model import add_lora, pool
from recsim_env.recommenders.rsllm.prompts import (
    SCRATCH_WORDS,
    history_rows,
    hub_tokenizer,
    lay_out,
    make_lexicon,
    scratch_tokenizer,
)
from recsim_env.recommenders.rsllm.recommender import RSLLM, log_softmax
from recsim_env.recommenders.rsllm.train import losses_of, make_batch, rows_of, shuffled
from recsim_env.recommenders.sasrec import SASRecConfig
from recsim_env.records import Ratings
from recsim_env.testing import observations, tiny_dataset

TITLES = ["Alien", "Brazil", "Casablanca", "Dune: Part Two", "Alien 3", "E.T.", "Fargo", "Ghost"]
SASREC = SASRecConfig(dim=8, epochs=1, max_length=8)
SMALL = {"size": "tiny", "epochs": 1, "stage1_epochs": 1, "history": 4, "sasrec": SASREC, "temperature": 0}


def with_titles(data, titles):
    return replace(data, catalog=replace(data.catalog, title=np.array(titles, object)))


def made(**settings):
    """A fitted recommender of eight items, titles spelled."""
    data = with_titles(tiny_dataset(n_items=8), TITLES)
    found = RSLLM(RSLLMConfig(**{**SMALL, "titles": "spelled", "pieces": 300, **settings}))
    found.fit(data, Draws(1))
    return found


@pytest.fixture(scope="module")
def spelled():
    return made()


# --- prompts


@pytest.mark.parametrize("kind", [False, True], ids=["token", "spelled"])
def test_lexicon(kind):
    tokenizer = scratch_tokenizer(TITLES, kind, 300)
    lexicon = make_lexicon(tokenizer, TITLES, 16, True)
    assert lexicon.ends == kind
    assert len(np.unique(lexicon.titles, axis=0)) == len(TITLES)
    words = [tokenizer.decode(row[row >= 0]) for row in lexicon.titles]
    assert words == TITLES
    assert tokenizer.convert_ids_to_tokens([*lexicon.user, *lexicon.item, lexicon.end]) == list(SCRATCH_WORDS)
    assert lexicon.end in lexicon.title_tokens()
    assert (make_lexicon(tokenizer, TITLES, 2, True).lengths <= 2).all()


def test_equal_titles_share_tokens_and_line_breaks_do_not_end_a_title():
    titles = ["Alien", "Alien", "Al\nien"]
    lexicon = make_lexicon(scratch_tokenizer(titles, True, 300), titles, 16, True)
    assert (lexicon.titles[0] == lexicon.titles[1]).all()
    assert lexicon.end not in lexicon.titles


def test_layout_by_hand():
    tokenizer = scratch_tokenizer(TITLES, True, 300)
    lexicon = make_lexicon(tokenizer, TITLES, 16, True)
    title = [row[row >= 0].tolist() for row in lexicon.titles]
    found = lay_out(lexicon, [np.array([3, 0]), np.zeros(0, int), np.array([5])], lexicon.user, width=40)
    first = [*lexicon.user, *title[3], lexicon.end, *title[0], lexicon.end]
    n = len(first)
    assert found.ids.shape == (3, 40)
    assert found.ids[0, :n].tolist() == first
    assert found.mask.sum(dim=1).tolist() == [n, 1, 2 + len(title[5])]
    a = 1 + len(title[3])
    assert found.owner[0].tolist() == [-1] + [0] * a + [1] * (1 + len(title[0])) + [-1] * (40 - n)
    assert torch.nonzero(found.item[0] >= 0).flatten().tolist() == [a, n - 1]
    assert found.item[0, [a, n - 1]].tolist() == [3, 0]
    assert found.item[1].eq(-1).all()
    assert found.n_items.tolist() == [2, 0, 1]


def test_layout_without_titles():
    lexicon = make_lexicon(scratch_tokenizer(TITLES, False, 300), TITLES, 16, True)
    found = lay_out(lexicon, [np.array([3, 0, 7])], lexicon.user, text=False)
    assert found.ids[0].tolist() == [*lexicon.user, lexicon.end, lexicon.end, lexicon.end]
    assert found.item[0].tolist() == [-1, 3, 0, 7]


def test_history_rows():
    rows = history_rows(np.array([[8, 8, 1, 2, 3], [8, 8, 8, 8, 8]]), 8, 2)
    assert [row.tolist() for row in rows] == [[2, 3], []]


# --- the model


def test_an_embedding_is_exactly_at_its_place(spelled):
    model, lexicon = spelled.model, spelled.lexicon
    prompts = lay_out(lexicon, [np.array([3, 0]), np.array([5])], lexicon.user)
    with torch.no_grad():
        placed, words = model.embed(prompts), model.language.get_input_embeddings()(prompts.ids)
        wanted = model.behaviour(torch.tensor([3, 0, 5]))
    slots = prompts.item >= 0
    assert torch.equal(placed[slots], wanted)
    assert torch.equal(placed[~slots], words[~slots])
    np.testing.assert_allclose(wanted.square().mean(dim=1).sqrt(), float(model.scale), rtol=1e-3)
    assert float(model.scale) == pytest.approx(float(words.square().mean().sqrt()), rel=0.5)


def test_stage_one_holds_the_placeholder(spelled):
    model = copy.deepcopy(spelled.model)
    assert model.unified
    model.unified = False
    prompts = lay_out(spelled.lexicon, [np.array([3, 0])], spelled.lexicon.user)
    placed = model.embed(prompts)[prompts.item >= 0]
    assert torch.equal(placed, model.placeholder.expand(2, -1))


def test_every_prefix_is_the_prompt_of_a_shorter_history(spelled):
    model, lexicon = spelled.model, spelled.lexicon
    row = np.array([3, 0, 5, 1])
    with torch.no_grad():
        prompts = lay_out(lexicon, [row], lexicon.user)
        whole = pool(model(prompts), prompts, "mean")
        for k in range(1, 5):
            alone = lay_out(lexicon, [row[:k]], lexicon.user, width=50)
            found = pool(model(alone), alone, "mean")
            np.testing.assert_allclose(whole.history[0, k - 1], found.history[0, k - 1], atol=1e-5)
            np.testing.assert_allclose(whole.item[0, k - 1], found.item[0, k - 1], atol=1e-5)


def test_pooling_by_hand():
    lexicon = make_lexicon(scratch_tokenizer(TITLES, False, 300), TITLES, 16, True)
    prompts = lay_out(lexicon, [np.array([1, 2]), np.array([3])], lexicon.user)  # i t b t b
    states = torch.tensor([[[9.0], [1], [3], [5], [11]], [[9], [2], [4], [100], [100]]])
    mean, last = pool(states, prompts, "mean"), pool(states, prompts, "last")
    assert mean.item[0].flatten().tolist() == [2, 8]
    assert mean.item[1, 0].tolist() == [3]
    assert mean.history[0].flatten().tolist() == [2, 5]
    assert last.history[0].flatten().tolist() == [2, 8]


# --- losses


def test_info_nce_by_hand():
    queries, keys = torch.tensor([[2.0, 0], [0, 1]]), torch.tensor([[1.0, 0], [0, 3], [-1, 0]])
    found = info_nce(queries, keys, torch.tensor([0, 1]), torch.tensor(0.5))
    e = np.exp
    want = [-np.log(e(2) / (e(2) + 1 + e(-2))), -np.log(e(2) / (1 + e(2) + 1))]
    assert float(found) == pytest.approx(np.mean(want), rel=1e-5)
    expected = torch.tensor([0.5, 0.0, -1.0])
    logits = np.array([2 - 0.5, 0, -2 + 1])
    want = -np.log(e(logits[0]) / e(logits).sum())
    assert float(info_nce(queries[:1], keys, torch.tensor([0]), torch.tensor(0.5), expected)) == pytest.approx(want)


def test_a_target_twice_in_a_batch_is_never_its_own_negative():
    rows = [np.array([4, 2, 2]), np.array([1, 7]), np.array([0, 2])]
    batch = make_batch(rows, np.arange(8), 0, Draws(0), 0)
    assert batch.keys.tolist() == [2, 7]
    assert batch.positive.tolist() == [0, 0, 1, 0]
    # As if the duplicates were masked in a matrix of all targets against all targets.
    torch.manual_seed(0)
    queries, items = torch.randn(4, 3), torch.randn(8, 3)
    targets = torch.tensor([2, 2, 7, 2])
    unit = torch.nn.functional.normalize
    logits = unit(queries, dim=1) @ unit(items[targets], dim=1).T / 0.1
    twice = (targets[:, None] == targets) & ~torch.eye(4, dtype=torch.bool)
    first = torch.tensor([[False] * 4, [False] * 4, [False, True, False, True], [False] * 4])  # the negative 2 once
    masked = logits.masked_fill(twice | first, -torch.inf)
    want = torch.nn.functional.cross_entropy(masked, torch.arange(4))
    found = info_nce(queries, items[torch.from_numpy(batch.keys)], batch.positive, torch.tensor(0.1))
    assert float(found) == pytest.approx(float(want), rel=1e-5)


def test_negatives_are_expected_as_often_as_said():
    popularity = np.array([50, 30, 20, 0, 0, 0, 0, 0])
    batch = make_batch([np.array([3, 0, 1])], popularity, 4, Draws(3), 5)
    assert set(batch.keys) >= {0, 1}
    share = popularity[batch.keys] / 100
    np.testing.assert_allclose(np.exp(batch.log_expected.numpy()), 2 * share + 4 / 8, rtol=1e-5)
    again = make_batch([np.array([3, 0, 1])], popularity, 4, Draws(3), 5)
    assert np.array_equal(again.keys, batch.keys)


def test_language_loss_and_sum_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]))
    assert float(language_loss(logits, torch.tensor([0, 2]))) == pytest.approx(-np.log([0.5, 0.8]).mean(), rel=1e-5)
    total = combine(torch.tensor(1.0), torch.tensor(10.0), torch.tensor(100.0), a=0.125, b=0.25).total
    assert float(total) == pytest.approx(0.625 + 12.5 + 2.5)


@pytest.mark.parametrize("kind", ["token", "spelled"])
def test_language_modelling_predicts_titles_from_the_second_on(kind):
    recommender = made(titles=kind)
    model, lexicon = recommender.model, recommender.lexicon
    row = np.array([3, 0, 5])
    found = losses_of(model, lexicon, recommender.config, make_batch([row], np.ones(8, int), 0, Draws(0), 0))
    expected, count = 0.0, 0
    for k in (1, 2):
        expected -= rank.log_likelihoods(model, lexicon, [row[:k]], row[None, k : k + 1])[0, 0]
        count += int(lexicon.lengths[row[k]]) + lexicon.ends
    assert float(found.language.detach()) == pytest.approx(expected / count, rel=1e-4)


def test_masked_soft_max_is_over_tokens_of_titles():
    recommender = made(mask_titles=True)
    logits = recommender.model.logits(torch.zeros(1, 64))
    assert torch.nonzero(logits[0] > -torch.inf).flatten().tolist() == recommender.lexicon.title_tokens().tolist()
    other = scratch_tokenizer(TITLES, True, 300)
    assert len(recommender.lexicon.title_tokens()) < len(other)


@pytest.mark.parametrize(
    ("off", "name"),
    [({"language": False}, "language"), ({"weight_ut": 0}, "user_target"), ({"weight_tt": 0}, "target_target")],
)
def test_each_loss_can_be_left_out(spelled, off, name):
    config = RSLLMConfig(**{**SMALL, **off})
    batch = make_batch([np.array([3, 0, 5])], np.ones(8, int), 2, Draws(0), 0)
    found = losses_of(spelled.model, spelled.lexicon, config, batch)
    assert float(getattr(found, name).detach()) == 0
    for other in {"language", "user_target", "target_target"} - {name}:
        assert float(getattr(found, other).detach()) > 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weight_tt": 0.6, "weight_ut": 0.6}, "at most 1"),
        ({"weight_tt": 0, "weight_ut": 0, "language": False}, "no loss is left"),
        ({"weight_tt": 0, "weight_ut": 0, "channels": "id"}, "no loss is left"),
        ({"epochs": 0, "stage1_epochs": 0}, "at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        RSLLMConfig(**settings)


def test_windows_become_rows():
    inputs, following = torch.tensor([[8, 1, 2], [4, 5, 6]]), torch.tensor([[1, 2, 3], [5, 6, 7]])
    assert [row.tolist() for row in rows_of(inputs, following, 8)] == [[1, 2, 3], [4, 5, 6, 7]]


# --- ranking


@pytest.mark.parametrize("kind", ["token", "spelled"])
def test_candidates_on_a_shared_prefix_equal_whole_sequences(kind):
    recommender = made(titles=kind)
    model, lexicon = recommender.model, recommender.lexicon
    rows = [np.array([3, 0, 5]), np.array([1]), np.zeros(0, int)]
    candidates = np.array([[1, 2, 7], [3, 4, 0], [5, 6, 3]])
    found = rank.log_likelihoods(model, lexicon, rows, candidates)
    for i, row in enumerate(rows):
        for j, item in enumerate(candidates[i]):
            prompts = lay_out(lexicon, [np.append(row, item)], lexicon.user)
            with torch.no_grad():
                log_prob = model.logits(model(prompts))[0].log_softmax(dim=-1)
            own = torch.nonzero(prompts.owner[0] == len(row)).flatten()
            own = own if lexicon.ends else own[:-1]
            want = sum(float(log_prob[t - 1, prompts.ids[0, t]]) for t in own)
            assert found[i, j] == pytest.approx(want, abs=1e-4)


def test_forms_of_candidate_scores(spelled):
    history = np.array([[8, 8, 3, 0], [8, 8, 8, 1]])
    candidates = np.array([[1, 2, 7], [3, 4, 0]])
    total = spelled.candidate_scores(history, candidates, "sum")
    mean = spelled.candidate_scores(history, candidates, "mean")
    np.testing.assert_allclose(mean * (spelled.lexicon.lengths[candidates] + 1), total, rtol=1e-5)
    pmi = spelled.candidate_scores(history, candidates, "pmi")
    prior = spelled.candidate_scores(np.full((1, 4), 8), candidates[:1], "sum")
    np.testing.assert_allclose(pmi[0], total[0] - prior[0], atol=1e-4)
    np.testing.assert_allclose(spelled.candidate_scores(np.full((1, 4), 8), candidates[:1], "pmi"), 0, atol=1e-4)


def test_writing_gives_titles_of_the_catalogue_alone(spelled):
    history = np.array([[8, 8, 3, 0], [8, 8, 8, 1], [8, 8, 8, 8]])
    assert (spelled.write(history) < 8).all()
    candidates = np.array([[4, 6], [0, 4], [2, 8]])
    written = spelled.write(history, candidates)
    assert all(item in own for item, own in zip(written, candidates, strict=True))
    assert written[2] == 2


def test_writing_follows_the_likeliest_path():
    recommender = made(titles="token")
    history = np.array([[8, 8, 3, 0], [8, 8, 8, 1]])
    everything = np.tile(np.arange(8), (2, 1))
    best = recommender.candidate_scores(history, everything, "sum").argmax(axis=1)
    assert recommender.write(history).tolist() == best.tolist()


def test_writing_fails_closed(spelled):
    history = np.array([[8, 8, 3, 0], [8, 8, 8, 1]])
    nothing = np.full((2, 3), 8)
    assert spelled.write(history, nothing).tolist() == [8, 8]
    broken = copy.deepcopy(spelled)
    with torch.no_grad():
        broken.model.language.get_input_embeddings().weight.fill_(float("nan"))
    assert broken.write(history).tolist() == [8, 8]


def test_a_title_that_begins_another_can_be_written():
    titles = ["Alien", "Alien 3"]
    lexicon = make_lexicon(scratch_tokenizer(titles, True, 300), titles, 16, True)
    trie = rank.Trie(lexicon, np.arange(2))
    for item, title in enumerate(lexicon.titles):
        node = 0
        for token in [*title[title >= 0].tolist(), lexicon.end]:
            assert trie.item(node) is None
            assert token in trie.options(node)
            node = trie.step(node, token)
        assert trie.item(node) == item
        assert not trie.options(node)


# --- the recommender


def test_the_items_side_is_cached_and_a_user_is_one_pass(spelled, monkeypatch):
    calls = []
    forward = type(spelled.model).forward
    monkeypatch.setattr(type(spelled.model), "forward", lambda self, p: calls.append(p) or forward(self, p))
    data = tiny_dataset(n_items=8)
    obs = observations(data, [[0, 2], [1], [3, 5], []], history_length=4)
    for seed in range(3):
        spelled.recommend(obs, 3, Draws(seed))
    assert len(calls) == 3  # one pass a turn, for all users
    assert all((prompts.n_items > 0).all() for prompts in calls)
    assert all(prompts.ids[0, 0] == spelled.lexicon.user[0] for prompts in calls)  # no item is read again


def test_scores_do_not_depend_on_who_is_served_beside(spelled):
    data = tiny_dataset(n_items=8)
    obs = observations(data, [[0, 2, 4], [1], [3, 5], [], [7, 6, 5, 4]] * 9, history_length=4)
    whole = spelled.scores(obs)
    for i in (0, 1, 3, 44):
        np.testing.assert_allclose(spelled.scores(obs.take(np.array([i])))[0], whole[i], atol=1e-6)


def test_scores_are_the_fusion(spelled):
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], []], history_length=4)
    towers = spelled.towers(obs.history)
    want = log_softmax(spelled.sasrec.scores(obs)) + spelled.fusion_weight * log_softmax(towers)
    np.testing.assert_allclose(spelled.scores(obs)[0], want[0], atol=1e-5)
    assert not spelled.scores(obs)[1].any()
    users = rank.user_vectors(spelled.model, spelled.lexicon, [np.array([0, 2, 4])], True, "last")
    np.testing.assert_allclose(
        towers[0], users[0] @ spelled.item_vectors.T / float(spelled.model.tau.detach()), rtol=1e-4
    )
    np.testing.assert_allclose(np.linalg.norm(spelled.item_vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"titles": "token", "channels": "id"}, {"channels": "text"}])
def test_saving_keeps_scores_exactly(settings, tmp_path):
    first = made(**settings)
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], [1], []], history_length=4)
    first.save(tmp_path)
    assert not list(tmp_path.rglob("*.pkl"))
    second = RSLLM.load(tmp_path)
    assert np.array_equal(first.scores(obs), second.scores(obs))
    if settings.get("channels") != "id":
        candidates = np.array([[1, 3], [0, 5], [2, 7]])
        for form in ("sum", "pmi"):
            assert np.array_equal(
                first.candidate_scores(obs.history, candidates, form),
                second.candidate_scores(obs.history, candidates, form),
            )


def test_a_fitted_sasrec_can_be_handed_over(spelled):
    data = with_titles(tiny_dataset(n_items=8), TITLES)
    again = RSLLM(spelled.config)
    again.fit(data, Draws(1), spelled.sasrec)
    obs = observations(data, [[0, 2, 4], [1]], history_length=4)
    assert again.sasrec is spelled.sasrec
    assert np.array_equal(again.scores(obs), spelled.scores(obs))
    again.retrain(Draws(2))
    assert again.sasrec is not spelled.sasrec  # there is more to learn from by then
    other = RSLLM(spelled.config.model_copy(update={"validation_users": 2}))
    with pytest.raises(RecsimError, match="other settings"):
        other.fit(data, Draws(1), spelled.sasrec)


def test_without_a_second_stage_the_placeholder_stays():
    recommender = made(epochs=0)
    assert not recommender.model.unified
    assert [entry["stage"] for entry in recommender.log] == [1]


def test_the_seed_alone_decides(spelled):
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], [1]], history_length=4)
    before = torch.get_rng_state()
    again = made()
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(again.scores(obs), spelled.scores(obs))
    other = RSLLM(spelled.config)
    other.fit(with_titles(tiny_dataset(n_items=8), TITLES), Draws(2))
    assert not np.array_equal(other.scores(obs), spelled.scores(obs))


def test_dealing_the_embeddings_out_changes_scores():
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    dealt = shuffled(table, Draws(1))
    assert sorted(map(tuple, dealt)) == sorted(map(tuple, table))
    assert not np.array_equal(dealt, table)
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], [1]], history_length=4)
    plain, control = made(), made(shuffle_ids=True)
    np.testing.assert_allclose(control.sasrec.scores(obs), plain.sasrec.scores(obs))
    assert not np.allclose(control.towers(obs.history), plain.towers(obs.history))


def test_text_alone_never_sees_an_embedding():
    recommender = made(channels="text")
    assert not recommender.model.unified
    before = recommender.towers(np.array([[3, 0]]))
    recommender.model.items += 1.0
    assert np.array_equal(recommender.towers(np.array([[3, 0]])), before)


def test_ids_alone_never_see_a_title():
    recommender = made(channels="id")
    before = recommender.towers(np.array([[3, 0]]))
    recommender.lexicon = replace(recommender.lexicon, titles=recommender.lexicon.titles[::-1].copy())
    assert np.array_equal(recommender.towers(np.array([[3, 0]])), before)
    for use in (
        lambda: recommender.write(np.array([[3]])),
        lambda: recommender.candidate_scores(np.array([[3]]), np.array([[1]])),
    ):
        with pytest.raises(RecsimError, match="learned no titles"):
            use()


AFTER = np.roll(np.arange(24), -5)
"""In the world of successors item AFTER[i] always follows item i."""


def successor_world(n_users=200, length=6):
    """The last item says all; all items are equally popular."""
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 24, n_users)]
    for _ in range(length - 1):
        sequences.append(AFTER[sequences[-1]])
    data = tiny_dataset(n_users=n_users, n_items=24)
    users = np.repeat(np.arange(n_users), length).astype(np.int32)
    items = np.stack(sequences, axis=1).reshape(-1).astype(np.int32)
    return data.with_ratings(Ratings(users, items, np.full(len(items), 3, np.float32), np.arange(len(items))))


SLOW = pytest.mark.slow


@pytest.mark.parametrize("channels", ["both", pytest.param("text", marks=SLOW), pytest.param("id", marks=SLOW)])
def test_it_learns_a_successor(channels):
    data = successor_world()
    popular = Popularity(PopularityConfig(temperature=0))
    settings = {"size": "tiny", "history": 4, "channels": channels, "temperature": 0, "batch_size": 16}
    settings |= {"patience": 9, "stage1_epochs": 3, "epochs": 10 if channels == "id" else 4, "learning_rate": 5e-3}
    recommender = RSLLM(RSLLMConfig(**settings, fusion_weight=3.0, sasrec=SASREC))
    obs = observations(data, [[i] for i in range(24)], history_length=4)
    hits = []
    for made in (popular, recommender):
        made.fit(data, Draws(0))
        hits.append((made.recommend(obs, 1, Draws(0)).items[:, 0] == AFTER).mean())
    assert hits[0] <= 0.1
    right = 0.7 if channels == "id" else 0.9  # SASRec's vectors are hardly trained here, and eight numbers wide
    assert hits[1] >= right
    towers = recommender.towers(obs.history)
    towers[np.arange(24), np.arange(24)] = -np.inf
    assert (towers.argmax(axis=1) == AFTER).mean() >= right
    if channels != "id":
        candidates = np.stack([AFTER, (AFTER + 1) % 24, (AFTER + 9) % 24], axis=1)
        assert (recommender.candidate_scores(obs.history, candidates, "sum").argmax(axis=1) == 0).mean() >= 0.9
        assert (recommender.write(obs.history) == AFTER).mean() >= 0.9


def test_resuming_ends_where_an_unbroken_training_does(tmp_path):
    data = with_titles(tiny_dataset(n_items=8), TITLES)
    config = RSLLMConfig(**{**SMALL, "epochs": 2, "titles": "spelled", "pieces": 300})
    whole = RSLLM(config)
    whole.fit(data, Draws(1))

    class Stop(Exception):
        pass

    def stop(progress):
        seen.append(progress)
        if len(seen) == 3:  # SASRec's epoch, stage 1's, stage 2's first
            assert {path.name for path in tmp_path.iterdir()} == {"part-sasrec.npz", "part-stage1.npz", "checkpoint"}
            raise Stop

    seen = []
    broken = RSLLM(config)
    broken.fitting = replace(broken.fitting, folder=tmp_path, tell=stop)
    with pytest.raises(Stop):
        broken.fit(data, Draws(1))
    again = RSLLM(config)
    again.fitting = replace(again.fitting, folder=tmp_path, resume=True)
    again.fit(data, Draws(1))
    assert not list(tmp_path.iterdir())
    assert [(e["stage"], e["epoch"]) for e in again.log] == [(1, 1), (2, 2), (2, 3)]
    obs = observations(data, [[0, 2, 4], [1]], history_length=4)
    assert np.array_equal(again.scores(obs), whole.scores(obs))


# --- Hugging Face backbones


def test_a_backbone_from_a_folder(tiny_model, tmp_path):
    recommender = made(backbone=tiny_model, lora_rank=0, titles="token")
    assert recommender.lexicon.ends
    tokenizer = ChatTokenizer.load(tiny_model).tokenizer
    assert tokenizer.decode([recommender.lexicon.end]) == "\n"
    recommender.save(tmp_path)
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], [1]], history_length=4)
    assert np.array_equal(RSLLM.load(tmp_path).scores(obs), recommender.scores(obs))
    assert (recommender.write(obs.history) < 8).all()


@pytest.mark.parametrize("recompute", [False, True])
def test_lora(tiny_model, tmp_path, recompute):
    pytest.importorskip("peft")
    recommender = made(backbone=tiny_model, lora_rank=4, recompute=recompute)
    trained = sum(weight.numel() for _, weight in trainable(recommender.model))
    assert trained < 0.2 * sum(weight.numel() for weight in recommender.model.parameters())
    recommender.save(tmp_path)
    obs = observations(tiny_dataset(n_items=8), [[0, 2, 4], [1]], history_length=4)
    assert np.array_equal(RSLLM.load(tmp_path).scores(obs), recommender.scores(obs))


def test_a_backbone_that_is_not_there(tmp_path):
    with pytest.raises(EngineError, match="nowhere"):
        hub_tokenizer(str(tmp_path / "nowhere"), "")


def test_lora_needs_peft(monkeypatch):
    monkeypatch.setattr("recsim_env.recommenders.rsllm.model.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="lora_rank 0"):
        add_lora(None, 8, 0.1)
