"""Packed prompts are exactly the prompts alone: losses, gradients, tokens."""

import dataclasses

import numpy as np
import pytest
import torch

from recsim_env.engine.prefixes import common_prefix
from recsim_env.errors import EngineError
from recsim_env.training.encoding import Encoder
from recsim_env.training.examples import Example
from recsim_env.training.losses import Dropout, Packed
from recsim_env.training.packing import Branch, Tree, batches_of, lay_out, pieces, rows_of

NONE = np.empty(0, np.int64)


def decision(ids, options=(5, 6, 7), target=(0.2, 0.5, 0.3), weight=1.0):
    return Branch(np.array(ids), "watch", np.array(options), np.array(target), NONE, weight)


def words(ids, written, weight=2.0):
    return Branch(np.array([*ids, *written[:-1]]), "chat", NONE, np.empty(0), np.array(written), weight)


def some_trees(seed=0, n=5):
    rng = np.random.default_rng(seed)
    trees = []
    for t in range(n):
        stem = rng.integers(8, 200, 7 + 3 * t)
        branches = [decision(rng.integers(8, 200, 2 + b), weight=1.0 + b) for b in range(3)]
        branches.append(words(rng.integers(8, 200, 4), rng.integers(8, 200, 5)))
        trees.append(Tree(stem, tuple(branches)))
    return trees


def alone(trees):
    """Every prompt as a row of its own."""
    whole = [(np.concatenate([t.stem, b.ids]), b) for t in trees for b in t.branches]
    return [[Tree(NONE, (dataclasses.replace(b, ids=ids),))] for ids, b in whole]


def tiny(kind):
    import transformers

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 200, "max_position_embeddings": 256}  # fmt: skip
    more = {"head_dim": 16} if kind == "Qwen3" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**shape, **more))
    return made.double()


@pytest.mark.parametrize("kind", ["Qwen3", "Llama", "Mistral"])
def test_packed_losses_and_gradients_are_those_of_single_prompts(kind):
    model, trees = tiny(kind), some_trees()
    packed = Packed(model)
    found = []
    for rows in (rows_of(trees, 80), alone(trees)):
        batch = lay_out(rows, 0)
        losses = packed.losses(batch, outside=0.1)
        losses.total.backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad()
        found.append((float(losses.total.detach()), losses.weight, gradients))
    (packed_loss, packed_weight, packed_grad), (loss, weight, grad) = found
    assert packed_weight == pytest.approx(weight)
    assert packed_loss == pytest.approx(loss, rel=1e-6)  # logits are read in single precision
    for name in grad:
        torch.testing.assert_close(packed_grad[name], grad[name], rtol=1e-4, atol=1e-7)


def test_the_check_passes_and_catches_a_model_that_ignores_the_mask():
    model, batch = tiny("Qwen3").float(), lay_out(rows_of(some_trees(), 120), 0)
    packed = Packed(model)
    packed.check(batch)
    own = packed.decoder.forward

    def blind(*args, attention_mask=None, **kwargs):
        return own(*args, attention_mask=None, **kwargs)

    packed.decoder.forward = blind
    # A plain causal mask is right for a first branch; the third sees the two before it.
    late = some_trees()[2]
    third = lay_out([[late]], 0)
    third = dataclasses.replace(third, choice_at=third.choice_at[-1:])
    with pytest.raises(EngineError, match="packed prompts"):
        packed.check(third)


def test_no_tree_is_lost_and_rows_keep_to_their_width():
    trees = some_trees(n=9)
    rows = rows_of(trees, 50)
    assert all(sum(t.size for t in row) <= 50 or len(row) == 1 for row in rows)
    before = sorted(tuple(b.ids) for t in trees for b in t.branches)
    assert before == sorted(tuple(b.ids) for row in rows for t in row for b in t.branches)
    batches = batches_of(rows, 120)
    assert [row for batch in batches for row in batch] == rows
    assert all(len(b) == 1 or max(sum(t.size for t in r) for r in b) * len(b) <= 120 for b in batches)


def test_a_long_tree_is_cut_between_branches():
    tree = Tree(np.arange(10), tuple(decision([1, 2, 3, 4]) for _ in range(6)))
    parts = list(pieces(tree, 20))
    assert [len(p.branches) for p in parts] == [2, 2, 2]
    assert all((p.stem == tree.stem).all() for p in parts)


def test_branches_see_stem_and_themselves_only():
    batch = lay_out([[Tree(np.array([1, 2]), (decision([3]), decision([4, 5])))]], 0)
    assert batch.mask[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 1, 0], [1, 1, 0, 1, 1],
    ]  # fmt: skip
    assert batch.positions[0].tolist() == [0, 1, 2, 2, 3]
    assert batch.choice_at.tolist() == [2, 4]


def test_the_loss_of_words_covers_the_written_tokens_and_the_end():
    batch = lay_out([[Tree(np.array([1]), (words([2, 3], [7, 8, 9]),))]], 0)
    assert batch.ids[0].tolist() == [1, 2, 3, 7, 8]
    assert batch.word_at.tolist() == [2, 3, 4]
    assert batch.word.tolist() == [7, 8, 9]
    assert batch.word_weight.sum() == pytest.approx(2.0)


def test_dropout_depends_on_its_seed_alone():
    model, batch = tiny("Qwen3").float(), lay_out(rows_of(some_trees(), 120), 0)
    packed, dropout = Packed(model), Dropout(model, 0.3)
    before = torch.get_rng_state()
    losses = []
    for seed in (1, 1, 2):
        dropout.start(seed)
        losses.append(float(packed.losses(batch, dropout=dropout).total.detach()))
        dropout.stop()
    plain = float(packed.losses(batch, dropout=dropout).total.detach())
    assert losses[0] == losses[1] != losses[2]
    assert plain == float(Packed(model).losses(batch).total.detach())
    assert torch.equal(before, torch.get_rng_state())


def example(group, content, options=("A", "B"), target=None, purpose="watch"):
    messages = ({"role": "system", "content": "Rules.\n\nMore rules."}, {"role": "user", "content": content})
    return Example(group, messages, purpose, options, np.array([0.5, 0.5]) if target is None else target)


def test_trees_hold_the_tokens_of_the_whole_prompts(tiny_chat):
    examples = [
        example(g, f"You are {g}.\n\n# Now\nDay 1.\n\n# Shown\nFilm {i}\nYour answer:") for g in "ab" for i in range(4)
    ]
    examples.append(example("a", "You are a.\n\n# Now\nDay 1.\n\n# Write", (), '{"message": "x"}', "chat"))
    for trees in (Encoder(tiny_chat, 500).trees(examples),):
        assert len(trees) == 2
        by_prompt = {tuple([*t.stem, *b.ids][: len(t.stem) + len(b.ids) - max(len(b.written) - 1, 0)])
                     for t in trees for b in t.branches}  # fmt: skip
        assert by_prompt == {tuple(tiny_chat.prompt(e.messages)) for e in examples}
        assert all(len(t.stem) > 5 for t in trees)


def test_tokenizers_that_join_over_blank_lines_get_whole_prompts(tiny_chat):
    encoder = Encoder(tiny_chat, 500)
    real = encoder._tokens
    encoder._tokens = lambda text: [*real(text), 1] if not text.endswith("think>\n\n") else real(text)
    examples = [example("a", f"You are a.\n\n# Shown\nFilm {i}\nYour answer:") for i in range(3)]
    trees = encoder.trees(examples)
    assert not encoder._in_parts
    whole = [tiny_chat.prompt(e.messages) for e in examples]
    assert len(trees[0].stem) == common_prefix(whole)


def test_a_prompt_that_is_too_long_is_refused(tiny_chat):
    with pytest.raises(ValueError, match="the model's limit is 20"):
        Encoder(tiny_chat, 20).trees([example("a", "word " * 40)])
