"""The one exception that means "the user can mend this"."""


class UserError(ValueError):
    """A mistake of the user's: unknown key, missing file, bad value.

    The message is one line that names the culprit and the remedy. `sak_jax.main` and the tools print it
    without a traceback and exit with status 2.
    """
