"""Networks of discrete variables in the Bayesian Interchange Format (BIF), as bnlearn, pgmpy and others write it.

    network asia { }
    variable smoke { type discrete [ 2 ] { yes, no }; }
    variable lung { type discrete [ 2 ] { yes, no }; }
    probability ( smoke ) { table 0.5, 0.5; }
    probability ( lung | smoke ) { (yes) 0.1, 0.9; (no) 0.01, 0.99; }

A `table` with parents lists its numbers with the child's state changing slowest and the last parent's fastest;
`default` stands for the configurations that have no line of their own. Properties and comments are read over. Numbers
are written with the fewest digits that give the same number again, so that a network comes back as it was.

Reference: Cozman, The Interchange Format for Bayesian Networks, version 0.15, 1998.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from plausible.atomic import write_atomically
from plausible.errors import DataError, ReadError

SLACK = 0.01  # by which printed probabilities may miss a sum of one
MOST_NUMBERS = 1 << 24  # of all tables of a file together: a default of one line may stand for any number

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*|/\*.*?\*/)
      | "(?P<string>[^"]*)"
      | (?P<mark>[{}()\[\],;|])
      | (?P<word>[^\s{}()\[\],;|"]+)""",
    re.DOTALL | re.VERBOSE,
)


@dataclass(eq=False)
class Network:
    """Discrete variables, the parents of each, and its table.

    Args:
        name: of the network.
        variables: name -> its states.
        parents: name -> the names of its parents.
        tables: name -> P(state | parents' states), its axes those of the variable and of its parents in their order.
    """

    name: str
    variables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)

    def order(self) -> list[str]:
        """Return the names with parents before children.

        Raises:
            DataError: the arcs have a cycle.
        """
        waiting = {name: set(self.parents[name]) for name in self.variables}
        found: list[str] = []
        while waiting:
            ready = [name for name, parents in waiting.items() if not parents & set(waiting)]
            if not ready:
                raise DataError(f"the arcs have a cycle: {' -> '.join(_cycle(waiting))}; take one of them out")
            found += ready
            for name in ready:
                del waiting[name]
        return found


def read_bif(path: str | Path) -> Network:
    """Read a network.

    Raises:
        ReadError: the file is absent or not a BIF file; the message has the line.
    """
    path = Path(path)
    try:
        blob = path.read_bytes()
    except FileNotFoundError:
        raise ReadError(f"there is no file {path}") from None
    except OSError as err:
        raise ReadError(f"{path} cannot be read: {err.strerror}") from None
    try:
        text = blob.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = blob.decode("latin-1")
    return parse(text, path.name)


def write_bif(network: Network, path: str | Path) -> None:
    """Write a network; an existing file is replaced only once the new one is whole.

    Raises:
        DataError: a name cannot be written in this format.
    """
    write_atomically(Path(path), to_text(network).encode())


def to_text(network: Network) -> str:
    """Return a network in BIF."""
    lines = [f"network {_quoted(network.name)} {{", "}"]
    for name, states in network.variables.items():
        listed = ", ".join(_quoted(s) for s in states)
        lines += [f"variable {_quoted(name)} {{", f"  type discrete [ {len(states)} ] {{ {listed} }};", "}"]
    for name in network.variables:
        parents, table = network.parents[name], network.tables[name]
        given = f" | {', '.join(map(_quoted, parents))}" if parents else ""
        lines.append(f"probability ( {_quoted(name)}{given} ) {{")
        # The first parent's state changes fastest, as bnlearn has it.
        states = [[_quoted(s) for s in network.variables[p]] for p in reversed(parents)]
        for of_parents, row in zip(product(*states), table.T.reshape(-1, len(table)).tolist(), strict=True):
            start = f"({', '.join(reversed(of_parents))})" if parents else "table"
            lines.append(f"  {start} {', '.join(map(repr, row))};")
        lines.append("}")
    return "\n".join(lines) + "\n"


def parse(text: str, source: str = "the text") -> Network:
    """Return the network that a text in BIF describes; `source` begins its error messages.

    Raises:
        ReadError: it is not BIF, or not a network; the message has the line.
    """
    return _Parser(text, source).network()


@dataclass(frozen=True)
class _Token:
    text: str
    line: int
    is_mark: bool = False


class _Parser:
    """Recursive descent, one method for each kind of block."""

    def __init__(self, text: str, source: str):
        self.source = source
        self.tokens = list(self._split(text))
        self.at = 0
        self.size = 0

    def network(self) -> Network:
        network = Network("unknown")
        while self.now.text:
            word = self.word("'network', 'variable' or 'probability'")
            if word == "network":
                network.name = self.word("the network's name")
                self.mark("{")
                while not self.taken("}"):
                    self.skip_statement()
            elif word == "variable":
                self.variable(network)
            elif word == "probability":
                self.probability(network)
            else:
                self.fail("'network', 'variable' or 'probability'", self.tokens[self.at - 1])
        if not network.variables:
            self.fail("at least one variable", self.now)
        for name in network.variables:
            if name not in network.tables:
                raise ReadError(f"{self.source}: variable {name!r} has no probability block")
        try:
            network.order()
        except DataError as err:
            raise ReadError(f"{self.source}: {err}") from None
        return network

    def variable(self, network: Network) -> None:
        token = self.now
        name = self.word("a variable's name")
        if name in network.variables:
            self.fail(f"each variable once, and {name!r} is there already", token)
        self.mark("{")
        states: tuple[str, ...] = ()
        while not self.taken("}"):
            if self.now.text == "type" and not self.now.is_mark:
                states = self.states()
            else:
                self.skip_statement()
        if not states:
            self.fail(f"'type discrete' and the states of {name!r}", token)
        network.variables[name] = states

    def states(self) -> tuple[str, ...]:
        self.at += 1
        kind = self.now
        if self.word("'discrete'") != "discrete":
            self.fail("'discrete': other types of variables are not known", kind)
        declared = None
        if self.taken("["):
            count = self.now
            declared = self.word("the number of states")
            if not declared.isdecimal():
                self.fail("the number of states", count)
            self.mark("]")
        start = self.now
        self.mark("{")
        states = self.words_until("}")
        self.mark(";")
        if declared is not None and int(declared) != len(states):
            self.fail(f"{declared} states, found {len(states)}", start)
        if not states or len(set(states)) < len(states):
            self.fail("at least one state, and all different", start)
        return tuple(states)

    def probability(self, network: Network) -> None:
        self.mark("(")
        token = self.now
        name, *parents = self.words_until(")", also="|") or [""]
        for v in (name, *parents):
            if v not in network.variables:
                self.fail(f"variables that were declared before, and {v!r} was not", token)
        if name in network.tables or len({name, *parents}) < len(parents) + 1:
            self.fail("one block for each variable, and each parent once", token)
        cards = [len(network.variables[v]) for v in (name, *parents)]
        self.size += int(np.prod(cards, dtype=object))
        if self.size > MOST_NUMBERS:
            self.fail(f"tables of at most {MOST_NUMBERS:,} numbers in all", token)
        table = np.full(cards, np.nan)
        self.mark("{")
        default = None
        while not self.taken("}"):
            start = self.now
            if self.taken("("):
                at = self.configuration(network, parents, start)
                if not np.isnan(table[(0, *at)]):
                    self.fail("each configuration of the parents once", start)
                table[(slice(None), *at)] = self.numbers(cards[0])
            elif start.text == "table" and not start.is_mark:
                self.at += 1
                table[...] = np.reshape(self.numbers(table.size), cards)
            elif start.text == "default" and not start.is_mark:
                self.at += 1
                default = np.reshape(self.numbers(cards[0]), (-1, *(1 for _ in parents)))
            else:
                self.skip_statement()
        if default is not None:
            table = np.where(np.isnan(table), default, table)
        network.parents[name], network.tables[name] = tuple(parents), table
        self.check(name, table, network, token)

    def check(self, name: str, table: np.ndarray, network: Network, token: _Token) -> None:
        sums = table.sum(0)
        bad = np.argwhere(~(np.abs(sums - 1) <= SLACK) | (table < 0).any(0))
        if not len(bad):
            return
        states = [network.variables[p][k] for p, k in zip(network.parents[name], bad[0], strict=True)]
        where = f"P({name}{' | ' if states else ''}{', '.join(states)})"
        total = sums[tuple(bad[0])]
        if np.isnan(total):
            self.fail(f"{where} to be given, directly or by a default", token)
        self.fail(f"{where} to be non-negative and to add up to one, and its sum is {total:g}", token)

    def configuration(self, network: Network, parents: list[str], start: _Token) -> tuple[int, ...]:
        states = self.words_until(")")
        if len(states) != len(parents):
            self.fail(f"a state for each of the {len(parents)} parents, found {len(states)}", start)
        for parent, state in zip(parents, states, strict=True):
            if state not in network.variables[parent]:
                self.fail(f"a state of {parent!r} ({', '.join(network.variables[parent])}), found {state!r}", start)
        return tuple(network.variables[p].index(s) for p, s in zip(parents, states, strict=True))

    def numbers(self, count: int) -> list[float]:
        start = self.now
        words = self.words_until(";")
        if len(words) != count:
            self.fail(f"{count} numbers, found {len(words)}", start)
        try:
            numbers = [float(word) for word in words]
        except ValueError:
            self.fail(f"numbers, found {' '.join(words)[:60]!r}", start)
        if not np.isfinite(numbers).all():
            self.fail("finite numbers", start)
        return numbers

    # -------------------------------------------------------------------------------------------------- the tokens

    def _split(self, text: str) -> Iterator[_Token]:
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise ReadError(f"{self.source}, line {line}: a quotation mark opens and none closes")
            if found.lastgroup != "space":
                yield _Token(found[found.lastgroup], line, found.lastgroup == "mark")
            line += text.count("\n", at, found.end())
            at = found.end()
        yield _Token("", line, is_mark=True)  # the end

    @property
    def now(self) -> _Token:
        return self.tokens[self.at]

    def word(self, expected: str) -> str:
        token = self.now
        if token.is_mark:
            self.fail(expected, token)
        self.at += 1
        return token.text

    def mark(self, text: str) -> None:
        if not self.taken(text):
            self.fail(f"{text!r}", self.now)

    def taken(self, text: str) -> bool:
        """Step over a mark if it comes now."""
        if self.now.is_mark and self.now.text == text:
            self.at += 1
            return True
        if self.now.is_mark and not self.now.text:
            self.fail(f"{text!r}", self.now)
        return False

    def words_until(self, end: str, also: str = "") -> list[str]:
        """Return the words up to a mark, and step over it; commas and the marks of `also` may stand between them."""
        words = []
        while not self.taken(end):
            if self.now.is_mark and self.now.text in ("," + also):
                self.at += 1
            else:
                words.append(self.word(f"a name, a number or {end!r}"))
        return words

    def skip_statement(self) -> None:
        """Step over a property."""
        if self.word("a statement or '}'") != "property":
            self.fail("'property', or a statement that belongs here", self.tokens[self.at - 1])
        while not self.taken(";"):
            self.at += 1

    def fail(self, expected: str, token: _Token) -> None:
        found = f"{token.text!r}" if token.text else "the end of the file"
        raise ReadError(f"{self.source}, line {token.line}: expected {expected}; this is at {found}")


def _quoted(name: str) -> str:
    """A name as it can stand in a file: in quotation marks where it would not be one word."""
    if '"' in name or "\n" in name:
        raise DataError(f"{name!r} cannot be written in BIF: it holds a quotation mark or a line break")
    plain = re.fullmatch(r'[^\s{}()\[\],;|"]+', name) and not name.startswith(("//", "/*"))
    return name if plain else f'"{name}"'


def _cycle(parents: dict[str, set[str]]) -> list[str]:
    """Names along a cycle, each the parent of the next; every name has a parent among the others."""
    path = [next(iter(parents))]
    while True:
        parent = next(p for p in parents[path[-1]] if p in parents)
        if parent in path:
            return [parent, *reversed(path[path.index(parent) :])]
        path.append(parent)
