"""Text that others wrote (item titles, plots, other users' words) on its way into a prompt.

``apply_chat_template`` turns the characters ``<|im_end|>`` in an item's title into the control token itself, so such
text is cleaned before a prompt is made of it, and fenced off as data. This lowers the risk and proves nothing; what
proves something is that a decision can only be one of the options, and words only fit their schema.

What is lost: invisible characters (so that emoji which are joined by them fall apart), line breaks, and everything
that looks like a control token.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

COMMON_SPECIAL_TOKENS = (
    "<s>", "</s>", "<bos>", "<eos>", "<unk>", "<pad>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<start_of_turn>",
    "<end_of_turn>", "<think>", "</think>", "<tool_call>", "</tool_call>",
)  # fmt: skip
"""Control tokens of widespread chat templates, for endpoints whose tokenizer is not at hand."""

_CONTROL_TOKEN = re.compile(r"<\|[^<>|]{0,64}\|>|<[<|]*\||\|[|>]*>")
_CONTROL_CATEGORIES = frozenset(("Cc", "Cf", "Cs", "Co"))
# Characters that are drawn as nothing (Default_Ignorable_Code_Point and the blank Braille cell) outside Cf.
_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_ELLIPSIS = "..."
_EXCESS = 16


def clean(text: str, limit: int, special_tokens: Sequence[str] = ()) -> str:
    """One line of visible text without control tokens.

    Normalises (NFKC), drops control, zero-width, bidirectional and other invisible characters, ``<|...|>`` and the
    given special tokens, makes every run of white space one blank, and cuts. It repeats until nothing changes, so
    that a token cannot be put together again by what was taken out of it.

    Args:
        text: Untrusted text.
        limit: Characters of the result at most; a longer text ends in ``...``.
        special_tokens: The tokenizer's own (:attr:`~recsim_env.interfaces.Engine.special_tokens`).
    """
    # Cleaning is quadratic in the worst case (a token nested in itself); what is far beyond the limit is cut at once.
    text = text[: _EXCESS * (limit + _EXCESS)]
    special = [token for token in special_tokens if token.strip()]
    before = None
    while text != before:
        before = text
        text = " ".join(_visible(unicodedata.normalize("NFKC", text)).split())
        text = _CONTROL_TOKEN.sub("", text)
        for token in special:
            text = text.replace(token, "")
    return _cut(text, limit, special)


def fence(text: str, tag: str = "data") -> str:
    """Marks a text as data: ``<data>text</data>``; angle brackets inside become ``‹›``, so it cannot end its fence."""
    return f"<{tag}>{text.replace('<', '‹').replace('>', '›')}</{tag}>"


def unfenced(text: str, tag: str = "data") -> str:
    """For people to read: what :func:`fence` marked stands in quotes."""
    return text.replace(f"<{tag}>", "“").replace(f"</{tag}>", "”")


def _visible(text: str) -> str:
    """The text with white space as blanks and without what is not seen."""
    if text.isascii() and text.isprintable():
        return text
    kept = (
        " " if character.isspace() else character
        for character in _INVISIBLE.sub("", text)
        if character.isspace() or unicodedata.category(character) not in _CONTROL_CATEGORIES
    )
    return "".join(kept)


def _cut(text: str, limit: int, special: Sequence[str]) -> str:
    if len(text) <= limit:
        return text
    short = text[: max(limit - len(_ELLIPSIS), 0)].rstrip() + _ELLIPSIS
    if limit <= len(_ELLIPSIS) or any(token in short for token in special):
        return text[:limit].rstrip()
    return short
