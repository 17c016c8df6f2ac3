"""The command line: ``plausible compare DATA`` and the rest. It knows no family by name.

commands   what a command does: read its arguments, call the library, print
uses/      a command for each use of a fitted model
arguments  what several commands take
flags      options, from the signatures of the estimators
inputs     data with their context, as they are named on the command line
wording    a fitted model and a family, described
terminal   errors in one sentence, progress on a terminal, quiet in a pipe
"""

from plausible.cli.commands import app, main

__all__ = ["app", "main"]
