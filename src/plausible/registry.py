"""The families by name.

``families/__init__.py`` is the only list; everything else (the command line, the comparison, the tests, the reader of
model files) reaches a family through here.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from types import ModuleType

from plausible.errors import PlausibleError
from plausible.families import FAMILIES, FORMATS

BASELINE = "independent"  # the product of its columns: what every other model is measured against


def names() -> list[str]:
    """Return the names of all families."""
    return list(FAMILIES)


def get(name: str) -> type:
    """Return the estimator class of that name; case, '-' and '_' do not matter.

    Raises:
        PlausibleError: there is no family of that name; the message suggests one.
    """
    plain = {_plain(n): n for n in FAMILIES}
    if _plain(name) not in plain:
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f"did you mean {plain[near[0]]!r}?" if near else f"there are: {', '.join(FAMILIES)}"
        raise PlausibleError(f"no family is called {name!r}; {hint}")
    module, _, attribute = FAMILIES[plain[_plain(name)]].partition(":")
    return getattr(importlib.import_module(f"plausible.families.{module}"), attribute)


def name_of(cls: type) -> str | None:
    """Return the name a class is registered under, or None."""
    for name, target in FAMILIES.items():
        if (
            cls.__module__ == f"plausible.families.{target.partition(':')[0]}"
            and cls.__name__ == target.partition(":")[2]
        ):
            return name
    return None


def format_of(suffix: str) -> ModuleType | None:
    """Return what has `read(path)` and `write(model, path)` for files of another program with that suffix, or None."""
    module = FORMATS.get(suffix.lower())
    return None if module is None else importlib.import_module(f"plausible.families.{module}")


def class_names() -> dict[str, str]:
    """Return class name -> family name, without importing any family."""
    return {target.partition(":")[2]: name for name, target in FAMILIES.items()}


def capable(can: Callable[[type], bool]) -> list[str]:
    """Return the names of the families whose class `can`: to say what can where something cannot."""
    return [name for name in FAMILIES if can(get(name))]


def _plain(name: str) -> str:
    return str(name).lower().replace("-", "").replace("_", "")
