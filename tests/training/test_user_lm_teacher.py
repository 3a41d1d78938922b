"""Stated answers: the table, what a prompt tells, words that fit their schemas; and the tokenizer made of prompts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from recsim_env.agents.actions import SCHEMAS
from recsim_env.agents.prompting import LETTERS, Cards, Prompts, Quoter
from recsim_env.draws import Draws
from recsim_env.engine.base import ChatTokenizer
from recsim_env.engine.embed import HashedNgrams
from recsim_env.lm.tokenizer import END, SPECIAL_TOKENS, make_tokenizer, phrases, word_pieces
from recsim_env.training.facts import Facts
from recsim_env.training.society import taught
from recsim_env.training.teacher import Table, TeacherEngine, Usual

PROMPT = """# You
You are Anna, female, aged 25-34, cook; ironic.
You like Comedy, Drama, and seldom Horror.
You loved <data>Kings (1999); A title that is far too long to be told in a sentence of a few words (2001)</data>
You watch a lot; you try all kinds of things; you like to search for yourself; you are a harsh judge (your mean mark: 5.5).

# Now
It is day 2, visit 1 of the day, page 1. You came to look around.
Your mood is good; you are quite bored; you no longer trust the app to listen.

"""  # noqa: E501
PAGE = """# The page, and what you did
- <data>Alpha (2001)</data>: skipped
- <data>Beta (2002)</data>: watched most of it, mark 4 of 5, liked
What do you do next?
A: leave the app"""
ITEM = "# You started to watch\n<data>Gamma (2003). Comedy, Horror. 12 ratings, 3.4 on average</data>\nDo you press"


@pytest.fixture(scope="module")
def society(toys):
    """What a small society was asked, and the stated answers."""
    data = toys.toy()
    cards = Cards(data.catalog, Quoter(SPECIAL_TOKENS))
    titles = [cards.title(i) for i in range(data.n_items)]
    teacher = TeacherEngine(
        Table.load(None), Usual.of(data, titles), data.catalog.categories, Draws(1), 0.4, (0.1, 0.2, 2.0),
        SPECIAL_TOKENS, Prompts(None),
    )  # fmt: skip
    examples = taught(teacher, data, toys.users, HashedNgrams(), Draws(3), 12, 4)
    return SimpleNamespace(examples=examples, data=data, titles=titles, teacher=teacher)


def test_a_prompt_tells_who_the_user_is_and_what_it_did():
    facts = Facts.of(PROMPT + PAGE, ("Comedy", "Drama", "Horror"))
    f = facts.features
    assert (f["explorer"], f["active"], f["varied"], f["harsh"]) == (1, 1, 1, 1)
    assert "generous" not in f
    assert (f["mood"], f["bored"], f["trust"]) == (0.5, 2, -1)
    assert (f["nothing"], f["watched"], f["enjoyed"]) == (0, pytest.approx(1 / 3), 1)
    assert facts.mean == 5.5
    assert facts.words["liked"] == ["Comedy"]
    assert facts.words["other"] == ["Drama"]
    assert facts.words["avoided"] == ["Horror"]
    assert facts.words["watched"] == ["Beta"]
    assert facts.words["skipped"] == ["Alpha"]
    assert facts.words["loved"] == ["Kings"], "long titles are not named"


def test_a_card_tells_the_genres():
    facts = Facts.of(PROMPT + ITEM, ("Comedy", "Drama", "Horror"))
    assert (facts.features["liked"], facts.features["avoided"], facts.features["seen"]) == (1, 1, 0)
    assert facts.words["title"] == ["Gamma"]
    assert set(facts.words["genre"]) == {"Comedy", "Horror"}


def test_a_prompt_tells_what_friends_said_and_what_is_spoken_of():
    told = "\n(You heard of it from 3 friends: mark 4.5 on average.)\nDo you press"
    facts = Facts.of(PROMPT + ITEM.replace("\nDo you press", told), ())
    assert (facts.features["told"], facts.heard) == (3, 4.5)
    once = told.replace("3 friends", "a friend")
    assert Facts.of(PROMPT + ITEM.replace("\nDo you press", once), ()).features["told"] == 1
    assert np.isnan(Facts.of(PROMPT + ITEM, ()).heard)
    question = Prompts(None)["social.chat_about"].render(friend="Ann", film="<data>Gamma (2003)</data>", mark="2 of 5")
    spoken = Facts.of(PROMPT + question, ())
    assert (spoken.mark, spoken.words["film"]) == (2.0, ["Gamma (2003)"])
    assert np.isnan(facts.mark)


def test_friends_move_the_stated_answers(society):
    t = society.teacher

    def answer(purpose, n, told=""):
        question = ITEM.replace("Gamma (2003)", society.titles[3]).replace("\nDo you press", f"\n{told}Do you press")
        return t._stated(PROMPT + question, purpose, n)

    def heard(friends, mark):
        return f"(You heard of it from {friends}: mark {mark} on average.)\n"

    levels = society.data.catalog.scale.levels
    means = [answer("stars", 6, told)[1:] @ levels / 0.85 for told in
             ("", heard("a friend", 5.0), heard("3 friends", 5.0), heard("3 friends", 1.0))]  # fmt: skip
    assert means[3] < means[0] < means[1] < means[2]
    watch = [answer("watch", 2, told)[1] for told in ("", heard("a friend", 5.0), heard("3 friends", 1.0))]
    assert watch[2] < watch[0] < watch[1]
    assert t.table.heed(1) == pytest.approx(1.4**2 / (1.4**2 + 2.0**2))
    assert t.table.heed(3) > t.table.heed(1)


def test_words_about_a_film_praise_or_blame_it(society):
    t, table = society.teacher, Table.load(None).plain["words"]["about"]
    for mark, kind in ((5, "praise"), (1, "blame"), (3, "neither")):
        question = Prompts(None)["social.post_about"].render(film="<data>Gamma (2003)</data>", mark=f"{mark} of 5")
        facts = Facts.of(PROMPT.replace("5.5", "3.0") + question, ())
        said = {json.loads(t.write("post", facts, [luck] * 8))["message"] for luck in np.linspace(0, 0.99, 30)}
        assert said == {line.format(film="Gamma (2003)") for line in table[kind]}


def test_stated_decisions_move_as_the_table_says():
    table = Table.load(None)
    for purpose, rules in table.plain["decisions"].items():
        p = table.decide(purpose, len(rules["base"]), {})
        np.testing.assert_allclose(p, np.array(rules["base"]) / sum(rules["base"]), atol=1e-9)
    calm, bored = (table.decide("next", 4, {"bored": b}) for b in (0, 3))
    assert bored[0] > calm[0]
    assert table.decide("mood", 5, {"nothing": 1})[:2].sum() > table.decide("mood", 5, {"watched": 1})[:2].sum()


def test_the_society_meets_everything_that_users_are_asked(society):
    asked = {e.purpose for e in society.examples}
    assert asked >= {
        "goal", "watch", "list", "fraction", "stars", "like", "share", "comment", "next", "tell", "mood", "boredom",
        "answered", "social", *SCHEMAS,
    }  # fmt: skip
    assert {e.group[0] for e in society.examples} == {"taught"}
    for e in society.examples:
        if e.options:
            assert len(e.target) == len(e.options)
            assert e.target.sum() == pytest.approx(1)


def test_all_words_fit_their_schemas_and_vary(society):
    texts = {}
    for e in society.examples:
        if isinstance(e.target, str):
            SCHEMAS[e.purpose].model_validate_json(e.target)
            assert "{" not in "".join(str(v) for v in json.loads(e.target).values()), "a place stayed empty"
            texts.setdefault(e.purpose, set()).add(e.target)
            assert "Write JSON" in e.messages[-1]["content"].rpartition("\n\n")[2]
    assert set(texts) == set(SCHEMAS)
    assert all(len(some) > 5 for some in texts.values())


def test_words_beside_hold_the_page_they_are_about(society):
    for e in society.examples:
        if e.purpose in ("search", "instruct", "insight"):
            question = e.messages[-1]["content"].rpartition("\n\n")[2]
            assert question.startswith("# The page, and what you did\n- <data>")
            assert "\nA: " not in question


def test_the_same_luck_gives_the_same_society(society, toys):
    t = society.teacher
    again = TeacherEngine(t.table, t.usual, t.categories, t.draws, t.explore, t.weights, t.special, t.prompts)
    examples = taught(again, society.data, toys.users, HashedNgrams(), Draws(3), 12, 4)
    assert [(e.messages, str(e.target)) for e in examples] == [(e.messages, str(e.target)) for e in society.examples]


# ---------------------------------------------------------------- tokenizer


@pytest.fixture(scope="module")
def pair(society):
    """The tokenizer of the society's prompts and its twin that spells titles."""
    sections = [f"{s}\n\n" for e in society.examples for s in e.messages[-1]["content"].split("\n\n")]
    sections += [s.removesuffix("\n\n") for s in sections] + [society.examples[0].messages[0]["content"]] * 20
    fixed = phrases(sections, 20, 900)
    pieces = word_pieces([e.messages[-1]["content"] for e in society.examples[:200]], 500)
    return [make_tokenizer(fixed, society.titles, pieces, 4096, spelled) for spelled in (False, True)]


def test_prompts_are_short_and_come_back_whole(society, pair):
    plain, spelled = (ChatTokenizer(t, "scratch") for t in pair)
    for e in society.examples[::97]:
        ids, longer = plain.prompt(e.messages), spelled.prompt(e.messages)
        text = "".join(f"<|{m['role']}|>{m['content']}" for m in e.messages) + "<|assistant|>"
        assert plain.tokenizer.decode(ids) == spelled.tokenizer.decode(longer) == text
        assert len(ids) < len(text) / 12
        assert len(ids) < len(longer)


def test_titles_letters_and_ends_are_one_token(society, pair):
    plain, spelled = pair
    assert len(plain.encode(society.titles[3])) == 1
    assert len(spelled.encode(society.titles[3])) > 2
    assert plain.get_vocab() == spelled.get_vocab()
    assert len(set(ChatTokenizer(plain, "scratch").options(LETTERS))) == 26
    assert plain.convert_tokens_to_ids(END) == plain.eos_token_id


@pytest.mark.parametrize(
    "text", ["Zażółć gęślą jaźń 漢字 🎬", "a\n\n\n\nb", " \t x", '{"query": "q"}', "<|end|>", "\x00\x7f"]
)
def test_any_text_can_be_written(pair, text):
    assert pair[0].decode(pair[0].encode(text)) == text


def test_a_saved_tokenizer_is_the_same(society, pair, tmp_path):
    pair[0].save_pretrained(tmp_path)
    loaded = ChatTokenizer.load(str(tmp_path))
    for e in society.examples[::301]:
        assert loaded.prompt(e.messages) == ChatTokenizer(pair[0], "scratch").prompt(e.messages)
    assert loaded.special_tokens == tuple(sorted(SPECIAL_TOKENS))


def test_numbers_with_a_point_are_not_fixed():
    found = phrases(["you are a fair judge (your mean mark: 7.4).\n"] * 50, 10, 100)
    assert not any("7.4" in phrase for phrase in found)
    assert any("your mean mark: " in phrase for phrase in found)
