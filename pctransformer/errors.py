"""What goes wrong by the user's doing."""


class UserError(Exception):
    """A fault that the user can mend: a file that is not there, a folder in the way, a name misspelt.

    The message says what happened, what was expected, and how to mend it. The command line prints it without a
    traceback and exits with code 2.
    """
