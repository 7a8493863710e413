"""The exceptions that a command line reports in one line, without a traceback."""


class UserError(ValueError):
    """A mistake of the user's: unknown key, missing file, bad value.

    The message is one line that names the culprit and the remedy. `sak_jax.main` and the tools print it
    without a traceback and exit with status 2.
    """


class EndedEarly(RuntimeError):
    """A run that ended before its last step and can say why; exit status 1."""


class Stopped(KeyboardInterrupt):
    """The run was asked to stop (SIGTERM, Ctrl-C) and its progress is saved; the message says how to go on.

    No `Exception`: a signal comes at any moment, and what reads damaged files must not take it for damage.
    """


class NonFiniteLossError(EndedEarly):
    """A loss or gradient is not a number; the message names the step and the values."""
