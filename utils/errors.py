"""The error that a user can fix, and messages in one line."""


class UserError(Exception):
    """A mistake the user can fix. Its one-line message: the file or flag, what is wrong, what is right."""


def one_line(error: Exception) -> str:
    """An error's message without its later lines, at most 200 characters."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]
