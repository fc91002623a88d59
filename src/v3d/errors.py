"""The one exception that a user is meant to read."""


class V3DError(Exception):
    """Something the user can mend: one clear sentence that says what is wrong and what to do.

    The command line prints it without a traceback; the web app shows it. Programming errors stay
    ordinary exceptions.
    """
