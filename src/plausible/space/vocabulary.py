r"""Vocabularies of text: what stands at one place of it, and the ways between strings and codes.

    characters   those of an alphabet
    bytes        the 256 of UTF-8
    byte pairs   the 256, and strings of bytes each made of two that were there before

Every string is bytes, so the last two know all strings, and `decode` gives back what `encode` was given. A string has
one sequence of characters or bytes. Of byte pairs it has as many sequences s as there are ways to cut it, of which
`encode` takes the one that the merges lead to, in the order in which they were learned:

    log p(string) = log sum_s p(s) >= log p(encode(string))

so that a density which is exact for sequences is a lower bound for strings. A model may draw any sequence, also bytes
that are no UTF-8: those become U+FFFD. The part of a character at the end of a window is left out.

References: Sennrich, Haddow and Birch, Neural machine translation of rare words with subword units, 2016,
https://arxiv.org/abs/1508.07909. Radford et al., Language models are unsupervised multitask learners, 2019 (bytes, and
the words inside which pairs are merged). Cao and Rimell, You should evaluate your language model on marginal likelihood
over tokenisations, 2021, https://arxiv.org/abs/2109.02550 (the bound).
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

from plausible.errors import DataError, PlausibleError, SpaceError

VOCABULARIES = ("characters", "bytes", "bpe")
LARGEST = 65_536  # tokens
LONGEST = 64  # bytes of a token
SHORTEST = 4  # places in a window: one character has up to four bytes


@dataclass(frozen=True)
class Characters:
    """An alphabet, in the order of the codes."""

    alphabet: tuple[str, ...]
    unit = "character"
    one_code = True  # whether a string has one sequence of codes

    @property
    def levels(self) -> tuple[str, ...]:
        return self.alphabet

    @property
    def starts(self) -> tuple[str, ...]:
        """The character that each code begins with."""
        return self.alphabet

    @cached_property
    def _code(self) -> dict[str, int]:
        return {c: k for k, c in enumerate(self.alphabet)}

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """Return the codes of a text; `what` names it in errors.

        Raises:
            SpaceError: it holds a character that the alphabet lacks.
        """
        try:
            return [self._code[c] for c in text]
        except KeyError as unknown:
            raise SpaceError(
                f"{what} holds the character {unknown.args[0]!r}, which was not seen when fitting; remove it, fit on "
                "text that holds it, or fit with a vocabulary of bytes, which knows every character"
            ) from None

    def decode(self, codes: Iterable[int], ended: bool = True) -> str:
        """Return the text of these codes; where it has not `ended`, without the part of a character that is there."""
        return "".join(self.alphabet[k] for k in codes)

    def decoder(self) -> Callable[[int], str]:
        """Return a function that is told code after code and gives what can be written by then."""
        return self.alphabet.__getitem__

    def whole(self, codes: Iterable[int]) -> bool:
        """Whether no character is begun and not ended."""
        return True

    def windows(self, text: str, length: int) -> list[str]:
        """Cut a text into parts of at most `length` codes."""
        return [text[i : i + length] for i in range(0, len(text), length)]

    def describe(self) -> str:
        return f"characters from an alphabet of {len(self.alphabet)}"


@dataclass(frozen=True)
class BytePairs:
    """Bytes, and what each merge makes of two codes: a code of its own, unless there is one for these bytes already."""

    merges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self):
        self.tokens  # noqa: B018 - which refuses merges that cannot be

    @classmethod
    def learn(cls, texts: str | Iterable[str], size: int) -> BytePairs:
        """Merge the commonest pair of tokens inside words, again and again; the same texts give the same merges.

        Args:
            texts: one or many.
            size: tokens in the end; fewer where no pair occurs twice.

        Raises:
            DataError: the size is out of range.
            PlausibleError: the package tokenizers is not installed.
        """
        if not 256 <= size <= LARGEST:
            raise DataError(f"a byte-pair vocabulary has 256 (the bytes alone) to {LARGEST:,} tokens, got {size}")
        library = _library()
        trainer = library.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            show_progress=False,
            initial_alphabet=sorted(_SHOWN),
            max_token_length=LONGEST,
        )
        learned = _untrained(library)
        learned.train_from_iterator([texts] if isinstance(texts, str) else texts, trainer)
        code = {shown: k for k, shown in enumerate(_SHOWN)}
        merges = []
        for left, right in json.loads(learned.to_str())["model"]["merges"]:
            merges.append((code[left], code[right]))
            code.setdefault(left + right, len(code))
        return cls(tuple(merges))

    @property
    def unit(self) -> str:
        return "token" if self.merges else "byte"

    @property
    def one_code(self) -> bool:
        return not self.merges

    @cached_property
    def tokens(self) -> tuple[bytes, ...]:
        """The bytes of each code."""
        found = {bytes([b]): b for b in range(256)}
        tokens = list(found)
        for merge in self.merges:
            if len(merge) != 2 or not all(isinstance(k, int) and 0 <= k < len(tokens) for k in merge):
                raise DataError(f"merge {merge} is not of two of the {len(tokens)} tokens that stand before it")
            token = tokens[merge[0]] + tokens[merge[1]]
            if len(token) > LONGEST or len(tokens) == LARGEST:
                raise DataError(f"a vocabulary has at most {LARGEST:,} tokens of at most {LONGEST} bytes")
            if token not in found:
                found[token] = len(tokens)
                tokens.append(token)
        return tuple(tokens)

    @cached_property
    def levels(self) -> tuple[str, ...]:
        """The tokens as strings, each character of which is a byte."""
        return tuple(token.decode("latin-1") for token in self.tokens)

    @cached_property
    def starts(self) -> tuple[str, ...]:
        """The character that each code begins with; U+FFFD where that is not all there."""
        return tuple(token.decode(errors="replace")[0] for token in self.tokens)

    @cached_property
    def _tokenizer(self) -> Any:
        library = _library()
        shown = ["".join(_SHOWN[b] for b in token) for token in self.tokens]
        merges = [(shown[a], shown[b]) for a, b in self.merges]
        return _untrained(library, vocab={s: k for k, s in enumerate(shown)}, merges=merges)

    def __getstate__(self) -> dict:
        return {"merges": self.merges}

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """Return the codes of a text; `what` names it in errors.

        Raises:
            SpaceError: it holds half of a surrogate pair, which is no character.
        """
        try:
            raw = text.encode()
        except UnicodeEncodeError as err:
            raise SpaceError(
                f"{what} holds {text[err.start]!r}, half of a pair that stands for one character; it has no UTF-8. "
                "Remove it, or decode the text again"
            ) from None
        return self._tokenizer.encode(text, add_special_tokens=False).ids if self.merges else list(raw)

    def decode(self, codes: Iterable[int], ended: bool = True) -> str:
        """Return the text of these codes; where it has not `ended`, without the part of a character that is there."""
        return codecs.getincrementaldecoder("utf-8")("replace").decode(b"".join(self.tokens[k] for k in codes), ended)

    def decoder(self) -> Callable[[int], str]:
        """Return a function that is told code after code and gives what can be written by then: whole characters."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda k: decoder.decode(self.tokens[k])

    def whole(self, codes: Iterable[int]) -> bool:
        """Whether no character is begun and not ended."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(self.tokens[k] for k in codes))
        return not decoder.getstate()[0]

    def windows(self, text: str, length: int) -> list[str]:
        """Cut a text between characters into parts of at most `length` codes."""
        return list(_cut(self, text, length))

    def describe(self) -> str:
        return f"tokens of a byte-pair vocabulary of {len(self.tokens)}" if self.merges else "bytes"


@lru_cache(maxsize=4)  # a long text is cut when it is described, fitted on and scored
def _cut(vocabulary: BytePairs, text: str, length: int) -> tuple[str, ...]:
    codes, raw = vocabulary.encode(text), text.encode()
    ends = list(accumulate((len(vocabulary.tokens[k]) for k in codes), initial=0))
    parts, first = [], 0
    while first < len(codes):
        most = min(first + length, len(codes))
        # Not inside a character; where all the tokens begin inside one, the part is too long, and is cut below.
        places = (*range(most, first, -1), *range(most + 1, len(codes) + 1))
        last = next(k for k in places if k == len(codes) or raw[ends[k]] & 0xC0 != 0x80)
        parts.append(raw[ends[first] : ends[last]].decode())
        first = last
    # What stands at the end of a part may be cut into other words than in the whole, and so be more tokens.
    return tuple(p for part in parts for p in _halved(vocabulary, part, length))


def _halved(vocabulary: BytePairs, text: str, length: int) -> list[str]:
    """A text in parts of at most `length` codes; one character has no more than `SHORTEST`."""
    if len(text) == 1 or len(vocabulary.encode(text)) <= length:
        return [text]
    half = len(text) // 2
    return [*_halved(vocabulary, text[:half], length), *_halved(vocabulary, text[half:], length)]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise PlausibleError(
            "a byte-pair vocabulary needs the package tokenizers: pip install 'plausible[text]'; or use bytes"
        ) from None
    return tokenizers


def _untrained(library: Any, **model: Any) -> Any:
    tokenizer = library.Tokenizer(library.models.BPE(**model))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer


def _shown() -> list[str]:
    """The character by which the library shows each byte: itself where it can be seen, else one from 256 on."""
    seen = {*range(33, 127), *range(161, 173), *range(174, 256)}
    other = iter(range(256, 512))
    return [chr(b) if b in seen else chr(next(other)) for b in range(256)]


_SHOWN = _shown()
