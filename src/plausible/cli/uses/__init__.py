"""A command for each of `plausible.uses`: a file with its function and the examples that end its help."""

from plausible.cli.uses import anomalies, complete, impute, novelty, query

# name -> function, examples
COMMANDS = {
    "anomalies": (anomalies.anomalies, anomalies.EXAMPLES),
    "complete": (complete.complete, complete.EXAMPLES),
    "impute": (impute.impute, impute.EXAMPLES),
    "novelty": (novelty.novelty, novelty.EXAMPLES),
    "query": (query.query, query.EXAMPLES),
}
