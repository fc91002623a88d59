"""The one exception that a user is meant to read."""


class V3DError(Exception):
    """Something the user can mend: one clear sentence that says what is wrong and what to do.

    The command line prints it without a traceback; the web app shows it. Programming errors stay
    ordinary exceptions.
    """


def in_words(error: BaseException) -> str:
    """What an exception says, on one line of at most 120 characters; its kind where it says nothing."""
    return " ".join(str(error).split())[:120] or type(error).__name__
