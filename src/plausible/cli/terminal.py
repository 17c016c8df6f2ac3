"""What a terminal shows, and what a pipe gets.

Results go to standard output. All else goes to standard error: what was guessed and every warning as one line,
progress on a terminal only. A mistake of the user ends in one sentence and exit code 2, an interrupt in 130; a
traceback is left for mistakes of ours.
"""

from __future__ import annotations

import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from plausible.errors import PlausibleError, PlausibleWarning

UsageError: Any = typer.BadParameter.__base__  # typer names it in none of its versions
BAD_INPUT, INTERRUPTED = 2, 130


def say(text: str) -> None:
    """Write a line for people to standard error."""
    print(text, file=sys.stderr, flush=True)


def fail(sentence: str, code: int = BAD_INPUT) -> typer.Exit:
    """Say what is wrong, in one line; return what ends the command: ``raise fail(...)``."""
    say(f"plausible: error: {' '.join(sentence.split())}")
    return typer.Exit(code)


class _Examples:
    """A help that begins with what to type, and ends in the epilog, line by line as it was written."""

    epilog: str | None

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """MODEL and [EVENT]: braces, as some versions of typer put them around what is required, nobody types."""
        return [re.sub(r"^\{(.*)\}(\.\.\.)?$", r"\1", piece) for piece in super().collect_usage_pieces(ctx)]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        examples, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = examples
        formatter.write(examples or "")


class Command(_Examples, TyperCommand):
    """A command whose help ends in examples."""


class Group(_Examples, TyperGroup):
    """The commands, with errors in one sentence."""

    def main(self, args: Any = None, prog_name: Any = None, standalone_mode: bool = True, **extra: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a terminal that lacks a character gets a question mark for it
                stream.reconfigure(errors="replace")
        try:
            code = super().main(args, "plausible", standalone_mode=False, **extra)
        except UsageError.__base__ as err:
            code = _misused(err)
        except typer.Abort:
            code = INTERRUPTED
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            with one_line_warnings():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            say("")
            raise fail("interrupted; nothing was written", INTERRUPTED) from None
        except PlausibleError as err:
            raise fail(str(err)) from None
        except BrokenPipeError:  # the reader of our output has seen enough
            raise
        except OSError as err:
            where = f"{err.filename}: " if err.filename else ""
            raise fail(where + (err.strerror or str(err)).lower()) from None


def _misused(err: Any) -> int:
    """Say how a command was misused; where the mistake is a name, suggest the nearest."""
    ctx = getattr(err, "ctx", None)
    near = getattr(err, "possibilities", None)
    option = getattr(err, "option_name", None)
    message = err.format_message()
    if near is not None and option and message.startswith("No such option"):
        near = f"; did you mean {' or '.join(near[:2])}?" if near else ""
        message = f"there is no option {option}{near}"
    if not message.strip() or type(err).__name__ == "NoArgsIsHelpError":
        err.show()
        return BAD_INPUT
    message = (
        message.rstrip(".").replace("Missing argument", "missing argument").replace("Missing option", "missing option")
    )
    see = "" if ctx is None else getattr(ctx.command, "see", f"{ctx.command_path} --help")
    return fail(f"{message[0].lower()}{message[1:]} (see {see})").exit_code


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Show our warnings as a line each, and those of libraries only where Python was asked for them (-W)."""

    def show(message: Any, category: type, *_: Any) -> None:
        say(f"plausible: warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", PlausibleWarning)
        warnings.showwarning = show
        yield


# ------------------------------------------------------------------------------------------------------- progress


def _watched() -> bool:
    return sys.stderr.isatty()


def _console() -> Any:
    from rich.console import Console

    return Console(stderr=True)


def busy(text: str) -> Any:
    """A context that shows what takes so long, on a terminal."""
    return _console().status(text) if _watched() else nullcontext()


class Steps:
    """Progress over the models of a comparison: how many are done, how long they take, how long is left.

    Call it with (done, in all, what happens now); it is a context, and silent where nobody watches.
    """

    def __init__(self, budget: float | None):
        self.budget, self.bar, self.task = budget, None, None

    def __enter__(self) -> Steps:
        if _watched():
            self.started = time.monotonic()
            self.bar = self._made()
            self.task = self.bar.add_task("preparing", total=None)
            self.bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: int, total: int, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=total, description=text)

    def _made(self) -> Any:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        steps = self

        class Time(ProgressColumn):
            """Seconds for a model, and those that are left."""

            def render(self, task: Any) -> Any:
                return Text(steps.pace(task.completed, task.total or 0), style="dim")

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Time())
        return Progress(*columns, console=_console(), transient=True)

    def pace(self, done: float, total: float) -> str:
        """``12 s a model, 40 s left``."""
        spent = time.monotonic() - self.started
        left = None if self.budget is None else max(self.budget - spent, 0)
        if done and left is None:
            left = spent / done * (total - done)
        parts = [f"{spent / done:.1f} s a model"] if done else []
        return ", ".join([*parts, *([f"{left:.0f} s left"] if left is not None else [f"{spent:.0f} s"])])
