"""A tokenizer for a user language model from scratch: the prompts' fixed phrases and the films' titles are one token.

Prompts of users are made of few fixed phrases, titles, and little else. A tokenizer that has each of them as one token
makes a prompt about seven times shorter than a byte-level BPE does, and gives every title an embedding of its own, as a
factor model has. What is not among the tokens is spelled with pieces of words, at worst byte by byte, so any text can
be read and written. A text is cut into the fewest tokens, section by section: no token crosses a blank line.

Simplification against Unigram (Kudo, "Subword Regularization", ACL 2018), whose model class this uses: all tokens have
the same score, none are learned by likelihood; the pieces of words come from BPE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIAL_TOKENS = (PAD, END, *ROLES)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""One token per role. The messages of users are a system's and a user's; what was answered ends with a token."""
WORDS = 3
"""Words of a quoted phrase, at most: sentences are spelled."""
_DATA = re.compile(r"(?<=<data>).*?(?=</data>)")
_DECIMAL = re.compile(r"[0-9]\.[0-9]")  # a mean mark is no part of a phrase
_QUOTED, _NUMBER = re.compile(r"[0-9.,;]+ ?"), re.compile(r"[0-9.]*[0-9]")
_CUTS = (r"(?<=\n)|(?=\n)", r"(?<=; )|(?<=\. )|(?<=, )", r"[0-9]+")


def phrases(texts: Iterable[str], least: int, limit: int) -> list[str]:
    """Fixed phrases of rendered prompts, the most frequent first.

    A section's text between quoted material counts as a whole; where that is rare, its lines do; where these are,
    their clauses, without digits. Of quoted material, clauses do: categories and the words around numbers.

    Args:
        texts: Sections of prompts (what stands between blank lines), each counted once for every time it occurs.
        least: Phrases that occur less often are not fixed.
        limit: Phrases at most.
    """
    rest: Counter[str] = Counter()
    quoted: Counter[str] = Counter()
    for text in texts:
        rest.update(part for part in _DATA.split(text) if part)
        for data in _DATA.findall(text):
            quoted.update(part for part in _QUOTED.split(data) if len(part.split()) <= WORDS)
            quoted.update(part for part in _NUMBER.split(data) if part == part.lower() and len(part.split()) <= WORDS)
    found = {part: n for part, n in quoted.items() if n >= least and len(part) > 1 and not part.endswith(")")}
    for cut in (*_CUTS, None):
        fixed = {p: n for p, n in rest.items() if n >= least and len(p) > 1 and not _DECIMAL.search(p)}
        found.update(fixed)
        smaller: Counter[str] = Counter()
        for part, n in rest.items():
            if part not in fixed and cut is not None:
                for piece in re.split(cut, part):
                    if piece:
                        smaller[piece] += n
        rest = smaller
    ordered = sorted(found, key=lambda part: (-found[part] * len(part), part))
    return [". ", ", ", "; ", ")."] + ordered[:limit]


def word_pieces(texts: Iterable[str], size: int) -> list[str]:
    """About ``size`` pieces of words out of a corpus, by byte-level BPE; written in ByteLevel's letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False))
    return sorted(set(bpe.get_vocab()) | set(alphabet))


def make_tokenizer(
    fixed: Sequence[str], titles: Sequence[str], pieces: Sequence[str], max_length: int, spelled: bool = False
) -> Any:
    """A tokenizer of the package transformers.

    Args:
        fixed: Phrases that are one token each.
        titles: Titles that are one token each.
        pieces: Pieces of words, in ByteLevel's letters; the 256 bytes must be among them.
        max_length: Longest prompt and reply.
        spelled: The same tokens, but titles are never read as one: each is spelled.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def written(text: str) -> str:
        return "".join(piece for piece, _ in level.pre_tokenize_str(text))

    scores: dict[str, float] = {}
    for piece in pieces:
        scores.setdefault(piece, -1.0)
    for text in fixed:
        scores.setdefault(written(text), -1.0)
    for text in titles:
        scores.setdefault(written(text), -1e4 if spelled else -1.0)  # so dear that byte by byte is cheaper
    first = [(token, -1e6) for token in SPECIAL_TOKENS]
    bpe = Tokenizer(models.Unigram([*first, *scores.items()], unk_id=0, byte_fallback=False))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex("\n\n"), "merged_with_previous"), level])
    bpe.decoder = decoders.ByteLevel()
    kind: Any = import_module("transformers").PreTrainedTokenizerFast
    return kind(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=list(ROLES),
        chat_template=CHAT_TEMPLATE,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
