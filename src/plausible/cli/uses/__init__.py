"""A command for each of `plausible.uses`: a file with its function and the examples that end its help."""

from plausible.cli.uses import complete, novelty

# name -> function, examples
COMMANDS = {
    "complete": (complete.complete, complete.EXAMPLES),
    "novelty": (novelty.novelty, novelty.EXAMPLES),
}
