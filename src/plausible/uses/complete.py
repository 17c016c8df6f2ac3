r"""Continue a text, a character (byte, token) at a time, from any model that takes them in order.

    x_t ~ p(x_t | prompt, x_<t)

Each costs what one costs (`start` and `step` of the module), not a pass over all that stands there.
A model of windows goes on seeing the last part of what went before, as it did when it was fitted, or, where its state
holds all that went before (``endless`` of the module), goes on from that; a model of whole strings ends them where it
will.

    from plausible.uses.complete import complete
    print(complete(model, "To be, or ", length=200, random_state=0))

A word that must be in the text is put where the model finds it likeliest among the breaks of a draft (anywhere, in
texts of letters alone), and the text goes on from there. Then, as under a temperature or `top_k`, what comes out is no
draw from the model's own distribution, and the result says so.

In a vocabulary of byte pairs the prompt is the sequence of tokens that it is encoded to, and what is drawn goes on from
these. A prompt that ends inside a word may end in a token that this word would not have; end it after a word, without
the space, which belongs to the next one.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sklearn.utils.validation import check_is_fitted

from plausible import registry
from plausible.errors import CapabilityError, DataError
from plausible.randomness import generator
from plausible.uses._parts import require_whole

PLACES = 16  # breaks of a draft at which a word is tried
SEEN_AGAIN = 0.5  # share of a full window that the next one begins with


@dataclass(frozen=True)
class Completion:
    """What was written after a prompt.

    Attributes:
        prompt: what was given.
        text: what was written after it.
        log_prob: log p(text | prompt) under the model's own distribution, in nats; the end of a string is part of it.
            Of byte pairs, that of the tokens that were drawn (which may go on past the text that was to end it).
        altered: why this is no draw from the model's own distribution; empty if it is one.
        stopped: 'length', 'stop' (the text that was to end it) or 'end' (the model ended the string).
    """

    prompt: str
    text: str
    log_prob: float
    altered: tuple[str, ...]
    stopped: str

    def __str__(self) -> str:
        return self.prompt + self.text


def complete(
    model: Any,
    prompt: str = "",
    *,
    length: int = 200,
    include: Sequence[str] = (),
    stop: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    context: Any = None,
    random_state: Any = None,
) -> Completion:
    """Continue a text.

    Args:
        model: a fitted model of text whose family takes character after character.
        prompt: what comes before; with an empty one the text begins from nothing.
        length: characters to write, at most; or bytes, or tokens, where the vocabulary has these.
        include: words that must be in what is written, in this order.
        stop: writing ends with this text, once all words are there.
        temperature: below one keeps to what is likely, above one strays further; one is the model itself.
        top_k: draw from the k likeliest characters (bytes, tokens) only.
        context: one row, as in `fit`.
        random_state: seed; None draws a fresh one.

    Raises:
        CapabilityError: the model is not one of text, or its family has no conditionals; the message says which have.
        SpaceError: the prompt or a word holds a character that was not seen when fitting.
        DataError: the words do not fit into `length`, or a setting is out of range.
    """
    require_whole("length", length)
    style = _Style(model, length, temperature, top_k, random_state)
    include = [include] if isinstance(include, str) else list(include)
    _require_texts("a word to include", include)
    _require_texts("stop", () if stop is None else (stop,))
    vocabulary = model.space_.vocabulary
    so_far = _Pen(model, context)
    so_far.read(prompt)
    begun, written = list(so_far.known), []
    sizes = [len(vocabulary.encode(word, f"the word {word!r}")) + style.gap for word in include]
    most = min(length, model.space_.length - len(begun)) if style.ends else length
    for i, word in enumerate(include):
        room = most - len(written) - sum(sizes[i:])
        if room < 0:
            raise DataError(
                f"{len(include)} word(s) to include do not fit into length={length}; raise length"
                if most == length
                else f"{len(include)} word(s) to include do not fit into the {most} {model.space_.unit}s that a string "
                f"has left behind the prompt (at most {model.space_.length} in all when fitting); give fewer"
            )
        drawn = style.write(so_far.copy(), room // (len(include) - i + 1), can_end=False, after_word=i > 0)
        piece = _with_word(model, context, begun + written, [k for k, _ in drawn], word, style.gap)
        so_far.take(piece)
        written += piece
    tail = list(style.write(so_far, length - len(written), stop=stop, after_word=bool(include)))
    text = vocabulary.decode(written) + "".join(piece for _, piece in tail)
    altered = [*style.altered, *([f"{len(include)} word(s) put in"] if include else [])]
    pen = _Pen(model, context)
    pen.take(begun)
    log_prob = pen.take(written + [k for k, _ in tail])
    if style.stopped == "end" and not pen.full:  # one of full length ends of itself
        log_prob += float(pen.log_p()[style.end])
    return Completion(prompt, text, log_prob, tuple(altered), style.stopped)


def stream(
    model: Any,
    prompt: str = "",
    *,
    length: int | None = None,
    stop: str | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    context: Any = None,
    random_state: Any = None,
) -> Iterator[str]:
    """Yield what `complete` writes, each character as soon as it is drawn; without a length, for ever.

    Args and errors as for `complete`.
    """
    style = _Style(model, length, temperature, top_k, random_state)
    _require_texts("stop", () if stop is None else (stop,))
    pen = _Pen(model, context)
    pen.read(prompt)
    yield from (piece for _, piece in style.write(pen, length, stop=stop) if piece)


def _require_texts(what: str, texts: Sequence[Any]) -> None:
    """Refuse what are no strings, and empty ones."""
    for text in texts:
        if not isinstance(text, str):
            raise DataError(f"{what} must be a string, got {text!r}")
        if not text:
            raise DataError(f"{what} must not be empty; leave it out")


def seen_again(length: int) -> int:
    """With how much of a full window the next one begins; there is room for one more step."""
    return min(max(int(SEEN_AGAIN * length), 1), length - 1)


class _Pen:
    """A place in a text: what is known of it, and what the model says comes next."""

    def __init__(self, model: Any, context: Any = None):
        self.space, self.module = model.space_, model._evaluator()
        c = model._encode_context(context, 1)
        self.c = None if c is None else c.to(self.module.dtype)
        self.known: list[int] = []
        self.endless = not self.space.end and getattr(self.module, "endless", False)
        self._begin([])

    def _begin(self, codes: list[int]) -> None:
        """Start a window with these codes."""
        with torch.no_grad():
            self.state, self.at = self.module.start(1, self.c), 0
            self.params = self.module.step(self.state, None)
        self._take(codes)

    def _take(self, codes: list[int]) -> torch.Tensor:
        """Take in codes that the window has room for; return the parameters (m, K) that stood before each of them."""
        if not codes:
            return self.params[:0]
        self.at += len(codes)
        values = torch.tensor([codes], dtype=self.params.dtype, device=self.params.device)
        with torch.no_grad():
            if hasattr(self.module, "prime"):  # which reads all of them in one pass
                after = self.module.prime(self.state, values)
            else:
                ahead = values.T[: len(codes) - self.full]
                after = [self.module.step(self.state, value) for value in ahead]
        before = torch.cat([self.params, *after])[: len(codes)]
        self.params = after[-1] if after and not self.full else self.params
        return before

    @property
    def full(self) -> bool:
        return self.at >= self.space.length and not self.endless

    def log_p(self) -> torch.Tensor:
        """Return the log probabilities (K,) of what comes next, on the CPU."""
        if self.full:
            if self.space.end:
                raise DataError(
                    f"the model was fitted on strings of at most {self.space.length} {self.space.unit}s and cannot "
                    "continue beyond; ask for fewer, or fit on longer strings"
                )
            self._begin(self.known[len(self.known) - seen_again(self.space.length) :])
        return self.params[0].double().cpu().log_softmax(0)

    def read(self, prompt: str) -> None:
        """Take in what comes before."""
        if not isinstance(prompt, str):
            raise DataError(f"the prompt must be a string, which may be empty; got {type(prompt).__name__}")
        self.take(self.space.vocabulary.encode(prompt, "the prompt"))

    def take(self, codes: list[int]) -> float:
        """Take in codes; return their log p given what stood before."""
        log_p = 0.0
        while codes:
            self.log_p()  # which begins the next window where one is full
            part = codes if self.endless else codes[: self.space.length - self.at]
            self.known += part
            log_each = self._take(part).double().log_softmax(1)
            log_p += float(log_each[torch.arange(len(part)), part].sum())
            codes = codes[len(part) :]
        return log_p

    def copy(self) -> _Pen:
        """Return a pen at the same place."""
        other = object.__new__(_Pen)
        other.__dict__.update(self.__dict__, known=list(self.known))
        other._begin(self.known[len(self.known) - self.at :])
        return other


class _Style:
    """How characters are drawn."""

    def __init__(self, model: Any, length: int | None, temperature: float, top_k: int | None, random_state: Any):
        check_is_fitted(model, "module_")
        if model.space_.type != "text" or not model.traits.conditionals:
            able = registry.capable(lambda f: f.traits.conditionals and "text" in f.traits.events)
            what = (
                "is a model of text, but takes no character after the other"
                if model.space_.type == "text"
                else (f"was fitted on {model.space_.describe()}, not on text")
            )
            raise CapabilityError(f"this {type(model).__name__} {what}; fit one of {', '.join(able)} on text")
        for name, value in (("length", length), ("top_k", top_k)):
            if value is not None:
                require_whole(name, value)
        if not isinstance(temperature, numbers.Real) or not temperature > 0:
            raise DataError(f"temperature must be a number above 0, got {temperature!r}; 1 is the model itself")
        self.vocabulary, self.ends = model.space_.vocabulary, model.space_.end
        self.end = len(self.vocabulary.levels)
        letters = [k for k, c in enumerate(self.vocabulary.starts) if c.isalnum() or c == "\ufffd"]
        self.gap = len(letters) < self.end  # names of letters alone have none: there a word may stand anywhere
        self.letters = letters if self.gap else []
        self.temperature, self.top_k = temperature, top_k
        self.rng = generator(random_state)
        self.altered = [f"temperature {temperature:g}"] if temperature != 1 else []
        fewer = top_k is not None and top_k < self.end + self.ends
        self.altered += [f"the {top_k} likeliest {model.space_.unit}s only"] if fewer else []
        self.stopped = "length"

    def write(
        self, pen: _Pen, length: int | None, stop: str | None = None, can_end: bool = True, after_word: bool = False
    ) -> Iterator[tuple[int, str]]:
        """Draw up to `length` codes, and what each adds; a word just put in is not made longer by the first of them."""
        decoder, tail, n = self.vocabulary.decoder(), "", 0
        self.stopped = "length"
        while length is None or n < length:
            if pen.full and self.ends:  # a string of full length ends of itself
                self.stopped = "end"
                return
            k = self._draw(pen.log_p(), can_end, after_word and not n)
            if self.ends and k == self.end:
                self.stopped = "end"
                return
            pen.take([k])
            n, piece = n + 1, decoder(k)
            if stop:
                tail += piece
                at = tail.find(stop)
                if at >= 0:
                    self.stopped = "stop"
                    yield k, piece[: len(piece) - (len(tail) - at - len(stop))]
                    return
                tail = tail[max(len(tail) - len(stop) + 1, 0) :]
            yield k, piece

    def _draw(self, log_p: torch.Tensor, can_end: bool, no_letter: bool) -> int:
        log_p = log_p / self.temperature
        refused = self.letters if no_letter else []
        refused = [*refused, self.end] if self.ends and not can_end else refused
        if len(refused) < len(log_p):
            log_p[refused] = -torch.inf
        if self.top_k is not None and self.top_k < len(log_p):
            log_p[log_p < log_p.topk(self.top_k).values[-1]] = -torch.inf
        below = log_p.softmax(0).cumsum(0)
        u = torch.rand((), generator=self.rng, dtype=below.dtype) * below[-1]
        return int(torch.searchsorted(below, u, right=True).clamp_max(len(below) - 1))


def _with_word(model: Any, context: Any, before: list[int], draft: list[int], word: str, gap: bool) -> list[int]:
    """Return the draft up to the break where the word is likeliest, and the word."""
    vocabulary = model.space_.vocabulary
    last, breaks = vocabulary.decode(before)[-1:], []
    for i in range(len(draft) + 1):
        if vocabulary.whole(draft[:i]):
            last = vocabulary.decode(draft[:i])[-1:] or last
            if not (gap and last.isalnum()):
                breaks.append((i, ""))
            elif i < len(draft) and vocabulary.starts[draft[i]] == " " and len(vocabulary.levels[draft[i]]) > 1:
                breaks.append((i, " "))  # a token that brings its space with it: so does the word in its place
    if not breaks:
        breaks = [(len(draft), next((c for c in vocabulary.starts if c.isspace()), ""))]
    pieces, scores = [], []
    for i, space in breaks[-PLACES:]:
        pen, put_in = _Pen(model, context), vocabulary.encode(space + word)
        pen.take(before + draft[:i])
        scores.append(pen.take(put_in))
        pieces.append(draft[:i] + put_in)
    return pieces[max(range(len(pieces)), key=scores.__getitem__)]
