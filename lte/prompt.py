"""The words around an edit: the only place they stand, for training, serving and evaluation alike."""

from __future__ import annotations

from collections.abc import Sequence

from lte.edits import CONTROL

TEMPLATE_ID = "lte-1"  # written into every adapter; change it with every change of the words below
HEADER = "[Updated Information]"
ASK = "[Question]"


def statement(text: str) -> str:
    """One edit as one line of the block: inner line breaks become spaces, an end mark is added where none stands.

    Control-token text loses its force to a blank. The memory refuses it at write, but a statement may come from
    elsewhere, and joining lines can make a mark that was not there: "[Updated", "Information]".
    """
    line = CONTROL.sub(lambda found: f"{found[0][0]} {found[0][1:]}", " ".join(text.split()))
    return line if line.endswith((".", "!", "?")) else line + "."


def with_edits(statements: Sequence[str], query: str) -> str:
    """The user's words with the edits in front of them; with no edit, the same string that came in.

    Each edit stands on its own line behind "- " and the query behind "[Question] ", so that a word is always preceded
    by a blank and has the same tokens in the edit, in the question and in the answer.
    """
    if not statements:
        return query
    lines = "".join(f"- {statement(s)}\n" for s in statements)
    return f"{HEADER}\n{lines}{ASK} {query}"
