"""What an audit finds: an outcome per check, and how a check says that a promise is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from plausible.errors import AuditError

Status = Literal["passed", "failed", "not applicable", "excepted"]
_MARKS = {"passed": "✓", "failed": "✗", "not applicable": "-", "excepted": "~"}


class Broken(Exception):
    """A promise is broken; the message says on which data and by how much."""


class NotApplicable(Exception):
    """The promise says nothing about this model; the message says why."""


@dataclass(frozen=True)
class Check:
    """One promise of the contract.

    Args:
        name: how exceptions and messages refer to it.
        promise: what is promised, in one sentence.
        examine: called with a `Bench`; returns what it measured, raises `Broken` or `NotApplicable`.
    """

    name: str
    promise: str
    examine: Callable[[Any], str]


@dataclass(frozen=True)
class Outcome:
    """What became of one check."""

    name: str
    status: Status
    detail: str
    promise: str

    def __str__(self) -> str:
        return f"{_MARKS[self.status]} {self.name}: {self.status}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Audit:
    """The outcomes of all checks of one model; print it, iterate over it, or index it by the name of a check."""

    model: str
    outcomes: tuple[Outcome, ...]

    def __iter__(self) -> Iterator[Outcome]:
        return iter(self.outcomes)

    def __getitem__(self, name: str) -> Outcome:
        return next((o for o in self.outcomes if o.name == name), None) or _missing(name, self.outcomes)

    def _with(self, status: Status) -> list[str]:
        return [o.name for o in self.outcomes if o.status == status]

    @property
    def failed(self) -> list[str]:
        """The names of the checks that failed."""
        return self._with("failed")

    @property
    def passed(self) -> list[str]:
        """The names of the checks that passed."""
        return self._with("passed")

    def __str__(self) -> str:
        return "\n".join([f"audit of {self.model}", *(f"  {o}" for o in self.outcomes)])

    __repr__ = __str__

    def raise_if_failed(self) -> None:
        """Raise an error that names the broken promises, if there are any.

        Raises:
            AuditError: at least one check failed.
        """
        broken = [o for o in self.outcomes if o.status == "failed"]
        if broken:
            listed = "\n".join(f"  {o.name}: {o.detail}\n    promised: {o.promise}" for o in broken)
            raise AuditError(f"{self.model} breaks {len(broken)} of {len(self.outcomes)} promises\n{listed}")


def _missing(name: str, outcomes: tuple[Outcome, ...]) -> Outcome:
    raise KeyError(f"no check is called {name!r}; there are: {', '.join(o.name for o in outcomes)}")


CHECKS: dict[str, Check] = {}


def check(function: Callable[[Any], str]) -> Callable[[Any], str]:
    """Make a function one of the checks; its name is the check's, the first paragraph of its docstring the promise."""
    promise = " ".join((function.__doc__ or "").split("\n\n")[0].split())
    CHECKS[function.__name__] = Check(function.__name__, promise, function)
    return function
