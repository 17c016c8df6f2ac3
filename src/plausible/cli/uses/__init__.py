"""A command for each of `plausible.uses`: a file with its function and the examples that end its help."""

from plausible.cli.uses import anomalies, augment, complete, compress, impute, novelty, query, surprise

# name -> function, examples
COMMANDS = {
    "anomalies": (anomalies.anomalies, anomalies.EXAMPLES),
    "augment": (augment.augment, augment.AUGMENT_EXAMPLES),
    "balance": (augment.balance, augment.BALANCE_EXAMPLES),
    "complete": (complete.complete, complete.EXAMPLES),
    "compress": (compress.compress, compress.EXAMPLES),
    "decompress": (compress.decompress, compress.BACK),
    "impute": (impute.impute, impute.EXAMPLES),
    "novelty": (novelty.novelty, novelty.EXAMPLES),
    "query": (query.query, query.EXAMPLES),
    "surprise": (surprise.surprise, surprise.EXAMPLES),
}
