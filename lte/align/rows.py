"""Rows as the trainer takes them: token ids and labels, none longer than allowed, none without a token to learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lte.align.dataset import AlignError, Row
from lte.align.settings import TrainSettings
from lte.edits import read_cases
from lte.prompt import TEMPLATE_ID

IGNORED = -100  # the label of a token that carries no loss
BATCH = 512  # rows tokenised at a time
Tokens = dict[str, list[int]]


def written(folder: str, held_out: Sequence[str], limit: int | None) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a dataset on disk and what it says of itself; those that hold an evaluation prompt are an error."""
    from lte.align.data.shards import read_figures, read_rows
    from lte.align.leaks import Guard

    figures = read_figures(folder)
    if figures.get("template") != TEMPLATE_ID:
        raise AlignError(
            f"{folder}: written in the prompt template {figures.get('template')!r}, this version has {TEMPLATE_ID!r}; "
            "build the dataset anew"
        )
    rows = list(read_rows(folder))[:limit]
    guard = Guard.of({path: read_cases(path) for path in held_out})
    for row in rows:
        if found := guard.prompts.inside(row.prompt):
            raise AlignError(f"{folder}: a row holds {found[0]!r}, which {found[1]} asks; build it with that held out")
    names = ("rows", "roles", "sha256", "model", "base")
    told: dict[str, Any] = {name: figures[name] for name in names if name in figures}
    return rows, {**told, "dataset": folder, **({"limit": limit} if limit else {})}


def tokenised(tokenizer: Any, rows: Sequence[Row], t: TrainSettings) -> tuple[list[Tokens], dict[str, int]]:
    """`input_ids` and `labels` of the rows that are kept, and how many were dropped or cut.

    The chat template writes both turns and its own BOS; a token carries loss from where the prompt's tokens end. Raises
    `AlignError` where the rule for rows that are too long says so, and where it leaves none.
    """
    kept: list[Tokens] = []
    report = {"rows": len(rows), "kept": 0, "dropped": 0, "cut": 0, "longest": 0, "tokens": 0, "learned": 0}
    for start in range(0, len(rows), BATCH):
        for made in _encode(tokenizer, rows[start : start + BATCH]):
            size = len(made["input_ids"])
            report["longest"] = max(report["longest"], size)
            if size > t.max_length:
                made = {name: values[: t.max_length] for name, values in made.items()}
                learned = any(label != IGNORED for label in made["labels"])
                if t.too_long != "cut" or not learned:
                    report["dropped"] += 1
                    continue
                report["cut"] += 1
            kept.append(made)
            report["tokens"] += len(made["input_ids"])
            report["learned"] += sum(label != IGNORED for label in made["labels"])
    report["kept"] = len(kept)
    if report["dropped"] and (t.too_long == "refuse" or not kept):
        raise AlignError(
            f"{report['dropped']} of {len(rows)} rows are longer than max_length={t.max_length} tokens, the longest "
            f"has {report['longest']}; raise it, or choose too_long: drop or cut"
        )
    return kept, report


def _encode(tokenizer: Any, rows: Sequence[Row]) -> list[Tokens]:
    asked = [[{"role": "user", "content": row.prompt}] for row in rows]
    whole = [[*a, {"role": "assistant", "content": row.answer}] for a, row in zip(asked, rows, strict=True)]

    def ids(turns: Any, opened: bool) -> list[list[int]]:
        made = tokenizer.apply_chat_template(
            turns,
            tokenize=True,
            add_generation_prompt=opened,
            return_dict=True,
            enable_thinking=False,  # as the model is asked (lte/models/lm.py); most templates know no such thing
        )
        return list(made["input_ids"])

    made = []
    for row, before, all_ in zip(rows, ids(asked, True), ids(whole, False), strict=True):
        n = _common(before, all_)
        if n == len(all_):
            raise AlignError(
                f"no token to learn behind {row.prompt!r}: its chat template writes no answer {row.answer!r}"
            )
        made.append({"input_ids": list(all_), "labels": [IGNORED] * n + list(all_[n:])})
    return made


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def checked(collate: Callable[[list[Any]], dict[str, Any]]) -> Callable[[list[Any]], dict[str, Any]]:
    """`collate`, but a batch without a token to learn is an `AlignError`: its loss would be 0 or not a number."""

    def batch(rows: list[Any]) -> dict[str, Any]:
        made = collate(rows)
        if not (made["labels"] != IGNORED).any():
            raise AlignError(
                f"no token of a batch of {len(rows)} rows carries loss (shape {tuple(made['labels'].shape)}); look at "
                "--preview: the learned part stands in ⟦ ⟧"
            )
        return made

    return batch
