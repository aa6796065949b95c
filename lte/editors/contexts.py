"""An edit as the model is asked it: rendered as the evaluator renders it, subject and answer found by characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lte.editors.base import EditorError
from lte.edits import Edit
from lte.models import LM, ModelError
from lte.models.tokens import Encoded, encode, last_mention

OPENERS = ("The", "Therefore", "Because", "I", "You")


@dataclass(frozen=True)
class Row:
    """The tokens of one text about an edit.

    edit     place of the edit in its list
    answer   tokens [a, b) of the answer; a == b where the row is only watched
    subject  place of the last token of the subject, where one was asked for

    Rows are always padded on the right, whatever side the tokenizer prefers, so places are places in the row.
    """

    ids: list[int]
    edit: int
    answer: tuple[int, int] = (0, 0)
    subject: int = -1

    @property
    def asks(self) -> bool:
        """Whether the row holds an answer; a drift row holds none."""
        return self.answer[1] > self.answer[0]

    @property
    def places(self) -> list[int]:
        """Where the model's prediction counts: before each answer token, or at the subject of a drift row."""
        return list(range(self.answer[0] - 1, self.answer[1] - 1)) if self.asks else [self.subject]


def answer_rows(
    lm: LM, edits: Sequence[Edit], prefixes: Sequence[str] = (), subject: bool = True, end: bool = False
) -> list[Row]:
    """Each edit's prompt with its answer behind it: bare first, then behind every prefix, within the user's turn.

    subject  find the last token of the subject in the prompt
    end      the mark that ends the assistant's turn belongs to the answer, so that the model stops there
    """
    close = turn_end(lm) if end else ""
    rows = []
    for i, edit in enumerate(edits):
        prompt = edit.prompt.strip()
        texts = [lm.render(q) for q in (edit.prompt, *(f"{p}. {prompt}" for p in prefixes))]
        # a base model's target follows a blank; behind a chat header there is none to add
        encoded, spans = lm.with_targets(texts, [edit.target_new.strip() + close] * len(texts))
        for text, e, span in zip(texts, encoded, spans):
            rows.append(Row(e.ids, i, span, subject_tokens(text, prompt, edit, e)[1] - 1 if subject else -1))
            _check(lm, rows[-1], edit)
    return rows


def drift_rows(lm: LM, edits: Sequence[Edit]) -> list[Row]:
    """ "One row for each edit, "{subject} is a": what the model takes the subject for, which an edit should leave."""
    rows = []
    for i, edit in enumerate(edits):
        prompt = f"{edit.subject} is a"
        text = lm.render(prompt)
        [e] = encode(lm.tokenizer, [text])
        rows.append(Row(e.ids, i, subject=subject_tokens(text, prompt, edit, e)[1] - 1))
    return rows


def answer_loss(rows: Sequence[Row], logits: Tensor) -> tuple[Tensor, Tensor]:
    """(mean −log p of the answer tokens, whether all are argmax) of each row, in float32.

    logits (tokens, vocabulary): at the `places` of the rows, one row behind the other. Each token is predicted at the
    place before its own; no other token counts, and the BOS is never one.
    """
    lengths = [len(row.places) for row in rows]
    gold = torch.tensor([t for row in rows for t in row.ids[slice(*row.answer)]], device=logits.device)
    nll = torch.nn.functional.cross_entropy(logits.float(), gold, reduction="none")
    hits = logits.argmax(-1) == gold
    mean = torch.stack([part.mean() for part in nll.split(lengths)])
    return mean, torch.stack([part.all() for part in hits.split(lengths)])


def sampled_prefixes(lm: LM, count: int, length: int, seed: int) -> list[str]:
    """`count` beginnings of text in the model's own words, of at most `length` tokens behind an opener.

    They stand before a prompt so that the subject is read in many places; the same seed gives the same ones.
    """
    prefixes = []
    for i in range(count):
        opener = OPENERS[i % len(OPENERS)]
        said = "".join(lm.stream(opener, length, temperature=1.0, top_p=0.9, seed=seed + i, raw=True))
        prefixes.append(" ".join(f"{opener} {said}".split()).rstrip(".!? "))
    return prefixes


def turn_end(lm: LM) -> str:
    """What the chat template writes behind the assistant's words; "" for a model without one."""
    if not lm.chat:
        return ""
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ANSWER"}]
    text = str(lm.tokenizer.apply_chat_template(turns, tokenize=False))
    return text[text.rfind("ANSWER") + len("ANSWER") :].strip()


def _check(lm: LM, row: Row, edit: Edit) -> None:
    """An `EditorError` for a row that the model cannot hold, or whose answer begins before its subject is read."""
    if lm.context is not None and len(row.ids) > lm.context:
        raise EditorError(
            f"the prompt {edit.prompt[:60]!r} and its answer are {len(row.ids)} tokens, with what is put before them, "
            f"and {lm.name} holds {lm.context}; shorten the prompt"
        )
    if row.subject >= row.answer[0]:
        raise EditorError(
            f"the end of the subject {edit.subject!r} and the beginning of the answer {edit.target_new!r} are one "
            "token; let the prompt go on behind the subject"
        )


def subject_tokens(text: str, prompt: str, edit: Edit, encoded: Encoded) -> tuple[int, int]:
    """Tokens [a, b) of the prompt's last mention of the subject; a template's own words are not searched."""
    start = text.rfind(prompt)
    if start < 0:
        raise EditorError(f"the chat template rewrites the prompt {prompt!r}, so its subject cannot be found")
    try:
        a, b = last_mention(prompt, edit.subject.strip())
    except ModelError as error:
        raise EditorError(
            f"the prompt {prompt!r} does not hold the subject {edit.subject!r}; name the subject as the prompt does"
        ) from error
    return encoded.span(start + a, start + b)
