"""Replies under a schema: what does not fit is named, and keeps its text."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recsim_env.engine.structured import misfit, read_reply, validated
from recsim_env.records import Completion


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    word: str = Field(min_length=1, max_length=5, pattern="^[a-z]*$")
    n: int = Field(ge=0, lt=10)


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["x", "y"]
    parts: list[Inner] = Field(max_length=2)
    note: str | None = None
    share: float = Field(default=0.5, gt=0, le=1)


SCHEMA = Reply.model_json_schema()
GOOD = {"kind": "x", "parts": [{"word": "ab", "n": 1}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "z"}, "kind must be one of"),
        ({"parts": {}}, "parts must be array, not dict"),
        ({"parts": [{"word": "ab"}]}, r"parts\[0\]: 'n' is missing"),
        ({"parts": [{"word": "ab", "n": 1.5}]}, r"parts\[0\].n must be integer"),
        ({"parts": [{"word": "ab", "n": True}]}, "must be integer, not bool"),
        ({"parts": [{"word": "ab", "n": 10}]}, "out of bounds"),
        ({"parts": [{"word": "ab", "n": -1}]}, "breaks minimum 0"),
        ({"parts": [{"word": "abcdef", "n": 1}]}, "maxLength 5"),
        ({"parts": [{"word": "A", "n": 1}]}, "does not match"),
        ({"parts": [GOOD["parts"][0]] * 3}, "maxItems 2"),
        ({"note": 3}, "note must be string"),
        ({"share": 0}, "out of bounds"),
        ({"more": 1}, "more is not allowed"),
    ],
)
def test_misfits_are_named(change, message):
    import re

    found = misfit({**GOOD, **change}, SCHEMA)
    assert found is not None
    assert re.search(message, found), found
    with pytest.raises(ValidationError):
        Reply.model_validate({**GOOD, **change}, strict=True)


@given(
    st.fixed_dictionaries(
        {"kind": st.sampled_from(["x", "y", "z"]), "parts": st.lists(
            st.fixed_dictionaries({"word": st.text("abA", max_size=6), "n": st.integers(-1, 10)}), max_size=3)},
        optional={"note": st.none() | st.text() | st.integers(), "share": st.floats(0, 1.5)},
    )
)  # fmt: skip
def test_agrees_with_pydantic(value):
    try:
        Reply.model_validate(value, strict=True)
        fits = True
    except ValidationError:
        fits = False
    assert (misfit(value, SCHEMA) is None) == fits


@pytest.mark.parametrize(
    ("text", "reason", "kind"),
    [
        ('{"kind": "x", "parts": []}', "stop", ""),
        ('{"kind": "x", "par', "length", "length"),
        ('{"kind": "x", "par', "stop", "invalid_json"),
        ("Sure! Here it is.", "stop", "invalid_json"),
        ('{"kind": "q", "parts": []}', "stop", "invalid_schema"),
        ("[]", "stop", "invalid_schema"),
        ("  ", "stop", "empty_text"),
    ],
)
def test_read_reply(text, reason, kind):
    parsed, found, error = read_reply(text, SCHEMA, reason)
    assert found == kind
    assert (error is None) == (kind == "")
    assert (parsed is not None) == (kind == "")


def test_free_text_is_not_parsed():
    assert read_reply("12", None, "stop") == (None, "", None)
    assert read_reply("12", None, "length")[1] == "length"


def test_validated_gives_the_object_or_the_reason():
    reply, completion = validated(Completion('{"kind": "x", "parts": []}'), Reply)
    assert reply == Reply(kind="x", parts=[])
    assert completion.error is None
    reply, completion = validated(Completion('{"kind": "q", "parts": []}', parsed={}), Reply)
    assert reply is None
    assert completion.error.startswith("kind: ")
    assert completion.text == '{"kind": "q", "parts": []}'
    assert completion.parsed is None
    assert validated(Completion("x", error="cut"), Reply) == (None, Completion("x", error="cut"))


def test_control_characters_inside_strings_become_spaces():
    raw = '{"word": "a\x00\nb", "n": 1}'
    value, kind, problem = read_reply(raw, {"type": "object"}, "stop")
    assert (kind, problem) == ("", None)
    assert value["word"] == "a b"
    found, kept = validated(Completion(raw.replace("a\x00\nb", "\x07ab")), Spoken)
    assert found is not None
    assert found.word == " ab"
    assert kept.text.count("\x07") == 1, "the raw text stays"


def test_bytes_that_are_no_character_count_once():
    """xgrammar lets four such bytes pass as one character; decoded they are four marks."""
    found, kept = validated(Completion('{"word": "' + "\ufffd" * 4 + 'abcd", "n": 1}'), Spoken)
    assert found == Spoken(word="\ufffdabcd", n=1)
    assert kept.text.count("\ufffd") == 4, "the raw text stays"


class Spoken(BaseModel):
    word: str = Field(max_length=5)
    n: int
