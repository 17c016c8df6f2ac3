"""plausible: generative models with one face.

    import plausible as pl
    model = pl.MADE(hidden=(256,)).fit(df)      # estimate
    model.log_prob(df)                          # evaluate: nats, in the units of df
    model.sample(5)                             # sample: rows like those of df

Every family has these three verbs; ``pl.compare`` puts all of them on your data, ``pl.check_model`` audits one.
Nothing heavy is imported until it is used.
"""

import importlib

__version__ = "0.1.0"

_LAZY = {
    "AnomalyDetector": "plausible.uses.anomaly",
    "BayesClassifier": "plausible.uses.classify",
    "check_model": "plausible.checks",
    "compare": "plausible.evaluate",
    "Imputer": "plausible.uses.imputer",
    "load": "plausible.files",
    "read": "plausible.data",
}
_MODULES = ("data", "errors", "evaluate", "heads", "registry", "sampling", "space", "transforms", "uses")


def __getattr__(name: str):
    if name in _MODULES:
        return importlib.import_module(f"plausible.{name}")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    from plausible import registry

    families = registry.class_names()
    if name in families:
        return registry.get(families[name])
    raise AttributeError(f"module 'plausible' has no attribute {name!r}")


def __dir__() -> list[str]:
    from plausible import registry

    return sorted([*_LAZY, *_MODULES, *registry.class_names(), "__version__"])
