"""Settings of an estimator: what a family's arguments are, said once.

An estimator is a keyword-only dataclass. ``option(...)`` gives a field its default, its help and the values it may
take; from these come the checks before a fit, the class docstring's list of arguments and the flags of the command
line.
"""

from __future__ import annotations

import dataclasses
import numbers
import re
from typing import Any, dataclass_transform

import numpy as np

from plausible.errors import PlausibleError


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple = (),
) -> Any:
    """A setting with its default, help, and allowed values: `low` <= value, `above` < value < `below`, or a choice.

    None is allowed where it is the default or among the choices; each entry of a tuple must satisfy the bounds.
    """
    allowed = {"low": low, "above": above, "below": below, "choices": choices}
    return dataclasses.field(default=default, metadata={"help": help} | allowed)


@dataclass_transform(kw_only_default=True, eq_default=False, field_specifiers=(option,))
def estimator(cls: type) -> type:
    """Make a class a keyword-only dataclass whose docstring lists its options."""
    cls = dataclasses.dataclass(kw_only=True, repr=False, eq=False)(cls)
    lines = [f"    {f.name}: {f.metadata['help']} (default {f.default!r})" for f in options_of(cls)]
    cls.__doc__ = (
        f"{(cls.__doc__ or '').rstrip()}\n\n    Args:\n" + "\n".join("    " + line for line in lines) + "\n    "
    )
    return cls


def options_of(cls: type) -> list[dataclasses.Field]:
    """Return the settings of an estimator class; its own come first, then the inherited ones."""
    fields = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
    own = cls.__dict__.get("__annotations__", {})
    return sorted(fields, key=lambda f: f.name not in own)


def check_options(model: Any) -> None:
    """Refuse settings out of range before any work starts.

    Raises:
        OptionError: names the setting, its allowed values and what it got.
    """
    for f in options_of(type(model)):
        value = getattr(model, f.name)
        problem = _problem(value, f)
        if problem:
            raise OptionError(f"{type(model).__name__}({f.name}={value!r}): {f.name} {problem} ({f.metadata['help']})")


class OptionError(PlausibleError, ValueError):
    """A setting of an estimator is out of range."""


def _problem(value: Any, field: dataclasses.Field) -> str | None:
    low, above, below, choices = (field.metadata[k] for k in ("low", "above", "below", "choices"))
    if value is None and (field.default is None or None in choices):
        return None
    if choices and isinstance(value, (str, type(None))) and value not in choices:
        return f"must be one of {', '.join(map(repr, choices))}"
    kinds = set(re.findall(r"\w+", str(field.type)))
    if "bool" in kinds and "str" not in kinds and not isinstance(value, (bool, np.bool_)):
        return "must be True or False"
    if "tuple" in kinds and not isinstance(value, (tuple, list)):
        return f"must be a tuple such as {field.default or (64, 64)}"
    if not kinds & {"int", "float"}:
        return None
    for v in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(v, str) and "str" in kinds and (not choices or v in choices):
            continue
        if not isinstance(v, numbers.Real) or v != v:
            return "must be a number"
        if "float" not in kinds and not isinstance(v, numbers.Integral):
            return "must be a whole number"
        if low is not None and v < low:
            return f"must be at least {low:g}"
        if above is not None and v <= above:
            return f"must be above {above:g}"
        if below is not None and v >= below:
            return f"must be below {below:g}"
    return None
