"""Expressions on columns, such as "age > 40 and income == '>50K'": read by a grammar of their own, never by `eval`.

Names of columns (in backticks where they are no identifiers), numbers, strings, True and False, comparisons (also in a
row: ``20 < age <= 30``), ``in`` and ``not in`` a list, ``and or not`` (or ``& | ~``), ``+ - * / % **``. Nothing else:
no calls, no attributes, no subscripts.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from plausible.errors import DataError
from plausible.space import Column
from plausible.space.column import some

COMPARISONS: dict[type, Callable] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.In: lambda left, right: np.isin(left, _listed(right, left)),
    ast.NotIn: lambda left, right: ~np.isin(left, _listed(right, left)),
}
ARITHMETIC: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
LONGEST = 10_000  # characters


class Expression:
    """An expression on columns.

    Attributes:
        text: as it was given.
        names: of the columns in it, in the order in which they appear.

    Raises:
        DataError: it is not in the grammar above, or names what is no column, or no level of one.
    """

    def __init__(self, text: str, columns: Sequence[Column]):
        self.text, self.columns = text, {c.name: c for c in columns}
        self.names: list[str] = []
        if len(text) > LONGEST:
            raise DataError(f"an expression of {len(text):,} characters is too long; {LONGEST:,} are read")
        self.quoted: dict[str, str] = {}
        try:
            self.tree = ast.parse(re.sub(r"`([^`]*)`", self._quote, text).strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = getattr(error, "msg", None) or error
            raise DataError(
                f"{text!r} is no expression on columns ({why}); one is: age > 40 and income == '>50K'"
            ) from None
        self._check(self.tree)
        if not self.names:
            raise DataError(f"{text!r} names no column; there are: {some([*self.columns])}")

    def __call__(self, values: dict[str, np.ndarray]) -> np.ndarray:
        """Return the value for each row of columns (n,)."""
        n = len(next(iter(values.values())))
        try:
            found = np.asarray(self._value(self.tree, values))
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.text!r} cannot be computed: {error}") from None
        return np.broadcast_to(found, (n,))

    def cuts(self, name: str) -> list[float] | None:
        """Return the numbers that a column is compared with, if it is used in no other way: steps are only there."""
        used, compared, cuts = 0, 0, []
        for node in ast.walk(self.tree):
            used += self._is(node, name)
            if isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
                for a, b in zip(sides[:-1], sides[1:], strict=True):
                    for column, other in ((a, b), (b, a)):
                        if self._is(column, name) and _number(other) is not None:
                            cuts.append(_number(other))
                compared += sum(self._is(side, name) for side in sides) * all(
                    self._is(side, name) or _number(side) is not None for side in sides
                )
        return sorted(set(cuts)) if used == compared else None

    def smooth(self, name: str) -> bool:
        """Whether it is a polynomial in a column."""
        for node in ast.walk(self.tree):
            rough = isinstance(node, ast.Compare) or (
                isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mod)
            )
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                rough = float(_number(node.right)) % 1 != 0 or _number(node.right) < 0
            if rough and any(self._is(inner, name) for inner in ast.walk(node)):
                return False
        return True

    def _quote(self, match: re.Match) -> str:
        place = f"_quoted_{len(self.quoted)}_"
        self.quoted[place] = match.group(1)
        return place

    def _name(self, node: ast.Name) -> str:
        return self.quoted.get(node.id, node.id)

    def _is(self, node: ast.AST, name: str) -> bool:
        return isinstance(node, ast.Name) and self._name(node) == name

    def _check(self, node: ast.AST) -> None:
        """Refuse what is not in the grammar."""
        match node:
            case ast.Name():
                name = self._name(node)
                if name not in self.columns:
                    raise DataError(
                        f"there is no column {name!r} (strings stand in quotes); there are: {some([*self.columns])}"
                    )
                self.names += [name] if name not in self.names else []
                return
            case ast.Constant(value=bool() | int() | float() | str()):
                return
            case ast.BoolOp(values=parts):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd() | ast.Invert(), operand=part):
                parts = [part]
            case ast.BinOp(op=ast.Pow(), right=right) if _number(right) is None or abs(_number(right)) > 100:
                raise DataError(f"{self.text!r}: a power must be a number of at most 100")
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ARITHMETIC or isinstance(
                op, ast.BitAnd | ast.BitOr
            ):
                parts = [left, right]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in COMPARISONS for op in ops):
                parts = [left, *(o for o in others if not isinstance(o, ast.List | ast.Tuple))]
                for a, op, b in zip([left, *others[:-1]], ops, others, strict=True):
                    self._check_comparison(a, op, b)
            case _:
                raise DataError(
                    f"{self.text!r}: {ast.unparse(node)!r} is not read; an expression has columns, numbers, strings, "
                    "comparisons, 'in', 'and or not' and + - * / % **"
                )
        for part in parts:
            self._check(part)

    def _check_comparison(self, a: ast.AST, op: ast.cmpop, b: ast.AST) -> None:
        """A level that the column does not have is a mistake, and no event of probability zero."""
        listed = isinstance(op, ast.In | ast.NotIn)
        if listed != isinstance(b, ast.List | ast.Tuple):
            raise DataError(f"{self.text!r}: 'in' takes a list, such as grade in ['low', 'mid'], and nothing else does")
        if listed and not all(isinstance(v, ast.Constant) or _number(v) is not None for v in b.elts):
            raise DataError(f"{self.text!r}: a list holds numbers or strings only")
        for side, other in ((a, b), (b, a)):
            column = self.columns.get(self._name(side)) if isinstance(side, ast.Name) else None
            if column is None:
                continue
            for value in [_constant(v) for v in (other.elts if isinstance(other, ast.List | ast.Tuple) else [other])]:
                words = bool(column.levels) and isinstance(column.levels[0], str)
                exact = words or (
                    isinstance(op, ast.Eq | ast.NotEq | ast.In | ast.NotIn) and column.kind == "categorical"
                )
                if value is not None and (
                    (exact and value not in column.levels) or (not words and isinstance(value, str))
                ):
                    has = some(column.levels) if column.levels else f"{column.kind} numbers"
                    raise DataError(f"{self.text!r}: column {column.name!r} does not hold {value!r}; it has {has}")

    def _value(self, node: ast.AST, values: dict[str, np.ndarray]) -> Any:
        match node:
            case ast.Name():
                return values[self._name(node)]
            case ast.Constant(value=value):
                return value
            case ast.BoolOp(op=op, values=parts):
                both = np.logical_and if isinstance(op, ast.And) else np.logical_or
                found = [_truth(self._value(part, values)) for part in parts]
                return both.reduce(np.broadcast_arrays(*found))
            case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=part):
                return ~_truth(self._value(part, values))
            case ast.UnaryOp(op=op, operand=part):
                return -self._value(part, values) if isinstance(op, ast.USub) else self._value(part, values)
            case ast.BinOp(left=left, op=ast.BitAnd(), right=right):
                return _truth(self._value(left, values)) & _truth(self._value(right, values))
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return _truth(self._value(left, values)) | _truth(self._value(right, values))
            case ast.BinOp(left=left, op=op, right=right):
                return ARITHMETIC[type(op)](self._value(left, values), self._value(right, values))
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                return [_constant(element) for element in elements]
        sides = [node.left, *node.comparators]
        found = [
            COMPARISONS[type(op)](self._value(a, values), self._value(b, values))
            for a, op, b in zip(sides[:-1], node.ops, sides[1:], strict=True)
        ]
        return np.logical_and.reduce(np.broadcast_arrays(*found))


def _listed(right: list, left: np.ndarray) -> np.ndarray:
    return np.array(right, dtype=object if np.asarray(left).dtype == object else None)


def _truth(value: Any) -> np.ndarray:
    value = np.asarray(value)
    if value.dtype == object and all(isinstance(v, bool | np.bool_) for v in value.flat):
        value = value.astype(bool)
    if value.dtype != bool:
        raise TypeError(
            f"'and', 'or' and 'not' join conditions, got {value.dtype} values; use parentheses around & and |"
        )
    return value


def _constant(node: ast.AST) -> Any:
    return node.value if isinstance(node, ast.Constant) else _number(node)


def _number(node: ast.AST) -> float | None:
    """The value of a number, with or without a sign; None of anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand)
        return value if value is None or isinstance(node.op, ast.UAdd) else -value
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
