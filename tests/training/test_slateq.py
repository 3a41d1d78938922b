"""SlateQ: the best slate against all slates, and a three-state world against exact dynamic programming."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import nn

from recsim_env.draws import Draws
from recsim_env.recommenders.slate_q import gains, page_value
from recsim_env.training.experience import collect, of, play
from recsim_env.training.slateq import SlateQLearner, SlateQLearningConfig, best_value, slateq_loss
from recsim_env.vector_env import RecSimVectorEnv


def random_factors(rng, n, m):
    odds = torch.from_numpy(rng.normal(size=(n, m)).astype(np.float32) * 1.5)
    value = torch.from_numpy(rng.normal(size=(n, m)).astype(np.float32))
    return odds, value, torch.from_numpy(rng.normal(size=n).astype(np.float32))


def test_the_best_slate_of_one_choice_is_the_best_of_all():
    rng = np.random.default_rng(0)
    odds, value, nothing = random_factors(rng, 40, 7)
    odds[:, 3] = -torch.inf
    gain = gains(odds, value, nothing, 3, "one").masked_fill(odds == -torch.inf, -torch.inf)
    chosen = gain.topk(3, dim=1).indices
    found = page_value(odds.gather(1, chosen), value.gather(1, chosen), nothing, "one")
    every = torch.stack(
        [
            page_value(odds[:, list(slate)], value[:, list(slate)], nothing, "one")
            for slate in combinations([0, 1, 2, 4, 5, 6], 3)
        ]
    )
    torch.testing.assert_close(found, every.max(dim=0).values, atol=1e-5, rtol=0)


def test_several_clicks_are_worth_their_sum():
    odds, value = torch.tensor([[0.0, -torch.inf, 2.0]]), torch.tensor([[1.0, 5.0, -2.0]])
    share = torch.sigmoid(torch.tensor(2.0))
    expected = 0.5 - 2 * share + 0.5 * (1 - share) * 4.0
    assert page_value(odds, value, torch.tensor([4.0]), "several").item() == pytest.approx(expected.item(), abs=1e-6)


class Table(nn.Module):
    """Factors by state, as plain numbers."""

    def __init__(self, n_states, n_items):
        super().__init__()
        self.odds, self.value = nn.Embedding(n_states, n_items), nn.Embedding(n_states, n_items)
        self.nothing = nn.Embedding(n_states, 1)
        for table in (self.odds, self.value, self.nothing):
            nn.init.zeros_(table.weight)

    def forward(self, state):
        return self.odds(state), self.value(state), self.nothing(state)[:, 0]


def test_it_meets_exact_dynamic_programming_on_three_states():
    """What is taken leads to another state. Logit choice, slates of 2 of 5 items."""
    rng = np.random.default_rng(3)
    n_states, n_items, k, discount = 3, 5, 2, 0.8
    odds = rng.normal(size=(n_states, n_items))
    reward = rng.uniform(size=(n_states, n_items))
    leads = rng.integers(0, n_states, size=(n_states, n_items))
    slates = list(combinations(range(n_items), k))

    def shares(state, slate):
        weight = np.exp([*odds[state, list(slate)], 0.0])
        return weight / weight.sum()

    value = np.zeros(n_states)
    for _ in range(300):  # exact value iteration over all slates
        worth = [
            [
                shares(s, a)
                @ np.array([*(reward[s, i] + discount * value[leads[s, i]] for i in a), discount * value[s]])
                for a in slates
            ]
            for s in range(n_states)
        ]
        value = np.max(worth, axis=1)
    best = [set(slates[i]) for i in np.argmax(worth, axis=1)]
    exact = reward + discount * value[leads]

    # Experience of a policy that shows anything: what was shown, what was taken, where it led.
    n = 30_000
    state = rng.integers(0, n_states, n)
    shown = np.array(slates)[rng.integers(0, len(slates), n)]
    luck = rng.random(n)
    bounds = np.cumsum([shares(s, a) for s, a in zip(state, shown, strict=True)], axis=1)
    place = (luck[:, None] > bounds).sum(axis=1)
    clicked = place[:, None] == np.arange(k)
    item = np.where(place < k, np.take_along_axis(shown, np.minimum(place, k - 1)[:, None], axis=1)[:, 0], -1)
    after = np.where(item >= 0, leads[state, item], state)
    states, slots, after = (torch.from_numpy(a) for a in (state, shown, after))
    clicks = torch.from_numpy(clicked)
    paid = torch.from_numpy((reward[state[:, None], shown] * clicked).astype(np.float32))

    net, places = Table(n_states, n_items), torch.zeros(k)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for round_number in range(30):
        with torch.no_grad():
            rest = discount * best_value(*net(after), places, "one")
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * 0.87**round_number
        for _ in range(15):
            own, worth_now, nothing = net(states)
            loss = slateq_loss(
                own.gather(1, slots), worth_now.gather(1, slots), nothing, clicks, paid, rest, "one"
            )  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found_odds, found, nothing = (part.detach() for part in net(torch.arange(n_states)))
    np.testing.assert_allclose(found.numpy(), exact, atol=0.05)
    np.testing.assert_allclose(found_odds.numpy(), odds, atol=0.15)
    np.testing.assert_allclose(nothing.numpy(), discount * value, atol=0.05)
    chosen = gains(found_odds, found, nothing, k, "one").topk(k, dim=1).indices.tolist()
    assert [set(slate) for slate in chosen] == best


@pytest.mark.parametrize("taken", ["several", "one"])
def test_it_learns_what_everybody_likes(make_world, taken):
    users = {"count": 12, "familiarity": 3.0, "genre": 0.0, "interest": 0.0, "taste": 0.0, "appeal": -2.0}
    users["choice"] = {"several": "cascade", "one": "logit"}[taken]
    plain = {"name": "slateq", "epochs": 0, "dim": 8, "max_length": 6, "taken": taken}
    world = make_world(
        slate_size=3, recommenders=[plain], episode="session", users=users, reward={"clicks": 1.0},
        training={"num_envs": 12, "turns": 20, "discount": 0.3, "iterations": 25},
    )  # fmt: skip
    env = RecSimVectorEnv(world=world, num_envs=12)
    policy = world.recommender(world.scenario.recommenders[0])
    learner = SlateQLearner(policy, env, world.scenario.training, SlateQLearningConfig(), Draws(5))
    before = np.mean([play(env, of(policy), seed).reward.mean() for seed in range(8)])
    for iteration in range(25):
        told = learner.iterate(iteration)
    assert np.isfinite(list(told.values())).all()
    assert policy.config.epsilon == 0.0
    after = np.mean([play(env, of(policy), seed).reward.mean() for seed in range(8)])
    assert after > 1.3 * before
    pages, _ = collect(env, of(policy), 1, 2)
    assert np.isfinite(np.log(pages[0].propensity)).all()
