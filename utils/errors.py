"""The error that a user can fix, and messages in one line."""

import re


class UserError(Exception):
    """A mistake the user can fix. Its one-line message: the file or flag, what is wrong, what is right."""


# Lines that TensorFlow and Keras put around the one that says what is wrong.
_AROUND = re.compile(
    r"in user code:|File \"|Graph execution error|Detected at node|Node: |<stack traces|Original stack trace|\[\[|"
    r"Exception encountered when calling|Arguments received by|•|$"
)


def one_line(error: BaseException) -> str:
    """The line of an error's message that says what is wrong, in at most 200 characters.

    Of TensorFlow's and Keras's messages neither stack traces nor names of functions made by tracing.
    """
    text = re.sub(r"\x1b\[\d*m|\{\{function_node [^}]*\}\} ?|\[Op:[^\]]+\]( name: *)?", "", str(error)).strip()
    text = re.sub(r"\{\{node ([^}]*)\}\}", r"\1", text)
    if text.startswith("in user code:"):  # then each call with its line of source, and last the error
        text = re.split(r"\n\s*\n", text)[-1].strip().removeprefix(f"{type(error).__name__}: ")
    lines = [line.strip() for line in text.splitlines() if not _AROUND.match(line.strip())]
    line = " ".join((lines or text.split() or [type(error).__name__])[0].split()).rstrip(".")
    if len(line) > 200:  # the first sentences, if one ends there
        line = line[:200].rpartition(". ")[0] or line[:200].rstrip()
    return line
