"""The errors plausible raises, and the warnings it gives.

    PlausibleError
    ├── DataError (ValueError)          the data cannot be used as they are
    │   ├── SpaceError                  they do not look like what the model was fitted on
    │   └── ReadError                   a file could not be read
    ├── CapabilityError (AttributeError) the family cannot do this; the message says what can
    ├── ModelFileError (ValueError)     a model file is truncated, too new, or not one of ours
    ├── DivergedError (RuntimeError)    training went wrong before anything was learned
    └── AuditError (AssertionError)     ``check_model`` found a broken promise

Each message says what was expected, what was got, and what to do.
"""


class PlausibleError(Exception):
    """Root of every error raised on purpose."""


class DataError(PlausibleError, ValueError):
    """The data cannot be used as they are."""


class SpaceError(DataError):
    """The data do not look like what the model was fitted on."""


class ReadError(DataError):
    """A file or folder could not be read."""


class CapabilityError(PlausibleError, AttributeError):
    """The family cannot do this. Being an AttributeError, it makes ``hasattr`` answer False."""


class ModelFileError(PlausibleError, ValueError):
    """A model file is truncated, of a newer format, or hostile."""


class DivergedError(PlausibleError, RuntimeError):
    """Training went wrong before any usable state was reached."""


class AuditError(PlausibleError, AssertionError):
    """At least one check of the public audit failed."""


class PlausibleWarning(UserWarning):
    """Root of the warnings."""


class DivergedWarning(PlausibleWarning):
    """Training went wrong; the last good state was kept."""


class InterruptedWarning(PlausibleWarning):
    """Training was interrupted; the best state so far was kept."""


class BudgetWarning(PlausibleWarning):
    """The fit cannot end inside its time budget."""


class GuessWarning(PlausibleWarning):
    """What an example is was guessed, and the guess is doubtful."""
