"""The options of an estimator as flags of a command: their names, their values as text, and back.

A setting declared by ``option(...)`` (see `plausible.options`) becomes ``--its-name``, with the help and default it was
declared with and a value parsed by its annotation. No family is known here: a new one has its flags at once.

    int, float, str     --epochs 20              bool           --resume, --no-resume
    tuple[int, ...]     --hidden 256,256         int | None     --patience none
    bool | str          --direct true            budget         --budget 90, 90s, 2m, 1h30m
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from plausible.errors import PlausibleError

# --seed, --as, --kind and --context, and the terminal decide these.
UNTOLD = frozenset({"random_state", "space", "context_space", "verbose"})
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
PREFIX = "setting_"  # of parameters, so that no family's setting can hide one of the command's own


@dataclasses.dataclass(frozen=True)
class Flag:
    """One setting of an estimator on the command line."""

    name: str
    hint: Any
    default: Any
    help: str
    choices: tuple = ()

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def switch(self) -> str:
        """The flag that changes the default of a switch: ``--resume``, or ``--no-bias``."""
        return f"--no-{self.flag[2:]}" if self.default else self.flag

    @property
    def values(self) -> str:
        """What it can be: ``INT``, ``INT,...``, ``NUMBER|none``, ``cosine|constant``."""
        return "TIME|none" if self.name == "budget" else _metavar(self.hint, self.choices)

    @property
    def default_text(self) -> str:
        return as_text(self.default)

    def parse(self, text: str) -> Any:
        """Return the value that `text` stands for.

        Raises:
            ValueError: it stands for none; the message says what was expected.
        """
        if self.name == "budget":
            return duration(text)
        return parse(text, self.hint, self.choices)


def flags_of(cls: type) -> list[Flag]:
    """Return the flags of an estimator class; its own come first, then those it shares with its relatives."""
    from plausible.options import options_of

    hints = typing.get_type_hints(cls)
    fields = [f for f in options_of(cls) if f.name not in UNTOLD]
    return [Flag(f.name, hints[f.name], f.default, f.metadata["help"], f.metadata["choices"]) for f in fields]


# -------------------------------------------------------------------------------------------------------- values


def parse(text: str, hint: Any, choices: Iterable = ()) -> Any:
    """Return `text` as a value of the annotated type; of a union, the first member that it can be.

    >>> parse("256,64", tuple[int, ...]), parse("none", int | None), parse("auto", bool | str)
    ((256, 64), None, 'auto')
    """
    text = text.strip()
    members = sorted(_members(hint), key=lambda m: m is str)  # anything can be a string
    if type(None) in members and text.lower() == "none":
        return None
    if text in choices:
        return text
    for member in members:
        try:
            return _as(member, text, choices)
        except ValueError:
            continue
    raise ValueError(f"expected {_metavar(hint, tuple(choices))}, got {text!r}")


def duration(text: str) -> float | None:
    """Return seconds; None for 'none'.

    >>> duration("90"), duration("2m"), duration("1h30m"), duration("none")
    (90.0, 120.0, 5400.0, None)
    """
    plain = text.strip().lower()
    if plain == "none":
        return None
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)([smh]?)", plain)
    if not parts or "".join(n + u for n, u in parts) != plain or len(parts) > 1 and any(not u for _, u in parts):
        raise ValueError(f"expected a time such as 90, 90s, 2m or 1h, got {text!r}")
    seconds = sum(float(n) * UNITS[u] for n, u in parts)
    if not seconds:
        raise ValueError("a budget must be longer than nothing; 'none' is no limit")
    return seconds


def as_text(value: Any) -> str:
    """A value as it is written on a command line: ``256,256``, ``none``, ``true``."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(map(as_text, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _members(hint: Any) -> tuple:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _as(member: Any, text: str, choices: Iterable) -> Any:
    if member is bool:
        if text.lower() not in WORDS:
            raise ValueError
        return WORDS[text.lower()]
    if member in (int, float):
        return member(text)
    if typing.get_origin(member) in (tuple, list) or member in (tuple, list):
        return _tuple(member, text)
    if typing.get_origin(member) is typing.Literal:
        return _literal(member, text)
    if member is str and not tuple(choices):
        return text
    raise ValueError


def _tuple(member: Any, text: str) -> tuple:
    of = [a for a in typing.get_args(member) if a is not Ellipsis] or [str]
    parts = [] if text.lower() in ("", "none") else text.strip("()[]").rstrip(",").split(",")
    fixed = typing.get_origin(member) is tuple and Ellipsis not in typing.get_args(member) and typing.get_args(member)
    if fixed and len(parts) != len(of):
        raise ValueError
    kinds = of if fixed else [of[0]] * len(parts)
    return tuple(parse(part, kind) for part, kind in zip(parts, kinds, strict=True))


def _literal(member: Any, text: str) -> Any:
    for value in typing.get_args(member):
        if as_text(value) == text:
            return value
    raise ValueError


def _metavar(hint: Any, choices: tuple = ()) -> str:
    words = []
    for member in _members(hint):
        if typing.get_origin(member) in (tuple, list):
            inner = [a for a in typing.get_args(member) if a is not Ellipsis]
            kind = _metavar(inner[0])
            words.append(f"{kind},..." if len(inner) == 1 else ",".join(map(_metavar, inner)))
        elif typing.get_origin(member) is typing.Literal:
            words += map(as_text, typing.get_args(member))
        elif member is str:
            words += [as_text(c) for c in choices] or ["TEXT"]
        elif member is bool:
            words += ["true", "false"]
        elif member is type(None):
            words.append("none")
        else:
            words.append({int: "INT", float: "NUMBER"}.get(member, "TEXT"))
    return "|".join(dict.fromkeys(words))


# ------------------------------------------------------------------------------------------------------ commands


def with_settings(command: Callable, cls: type | None = None) -> Callable:
    """Return a command that takes the flags of `cls`, if any, besides its own; they reach it as ``settings``."""
    flags = flags_of(cls) if cls else []
    own = inspect.signature(command, eval_str=True)
    kept = [p for p in own.parameters.values() if p.name != "settings"]

    def run(**given: Any) -> Any:
        told = {f.name: given.pop(PREFIX + f.name) for f in flags}
        settings = {
            name: value if isinstance(value, bool) else value[0] for name, value in told.items() if value is not None
        }
        return command(**given, settings=settings)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    parameters = [*kept, *(_parameter(flag, cls) for flag in flags)]
    run.__signature__ = inspect.Signature(parameters)
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _parameter(flag: Flag, cls: type) -> inspect.Parameter:
    own = flag.name in cls.__dict__.get("__annotations__", {})
    panel = f"Options of {cls.__name__}" if own else "Training"
    words = len(flag.values) > 12  # the list of them would leave no room for the help
    text = flag.help + (f"; {flag.values.replace('|', ', ')}" if words else "")
    text = f"{text} [default: {flag.default_text}]".replace("[", r"\[")
    if flag.is_switch:
        hint = Annotated[bool | None, typer.Option(flag.switch, help=text, rich_help_panel=panel)]
    else:
        metavar = "WORD" if words else flag.values
        option = typer.Option(flag.flag, help=text, parser=_parser(flag), metavar=metavar, rich_help_panel=panel)
        hint = Annotated[str | None, option]
    return inspect.Parameter(PREFIX + flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)


def _parser(flag: Flag) -> Callable[[str], tuple]:
    """The value in a tuple of one: None says that the flag was not given."""

    def read(text: str) -> tuple:
        return (checked(flag.parse, text),)

    return read


def checked(parser: Callable[[str], Any], text: str) -> Any:
    """Call a parser of text; what it refuses becomes typer's error, which names the flag."""
    try:
        return parser(text)
    except (ValueError, PlausibleError) as err:
        raise typer.BadParameter(str(err)) from None
