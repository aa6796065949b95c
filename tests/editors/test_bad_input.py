"""What editors of weights do with edits and tokenizers that are not as they should be.

Either a refusal that says how to mend it, with every bit as it was, or a stated rule, with its effect. Every editor
that is registered is asked, on tokenizers in the manner of four families.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_input_kit import CLOZE, FAMILIES, TRAINED, after, likelier, made, model, of_located, of_weights, refused
from editors_kit import EDITS, same, state

from lte.editors.contexts import answer_rows
from lte.edits import Edit, EditError
from lte.models import LM
from lte.models.tokens import encode


@pytest.fixture(params=FAMILIES)
def lm(request: pytest.FixtureRequest) -> Iterator[LM]:
    """One model of each family; whatever a test does to it, it is to be found as it was."""
    found = model(request.param)
    before = state(found)
    yield found
    assert same(before, state(found)) and found.handles == [] and found.routes == []
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in found.model.modules())


@of_located
def test_a_subject_that_the_prompt_lacks_is_refused_with_those_beside_it(name: str, lm: LM, statistics: Path) -> None:
    edits = [CLOZE, Edit("The capital of France is", "Rome", subject="Paris")]
    refused(made(name, lm, statistics), lm, edits, "does not hold the subject 'Paris'; name the subject as the prompt")
    refused(made(name, lm, statistics), lm, [Edit("The capital is", "Rome")], "names no subject.* set subject")


@pytest.mark.parametrize("name", TRAINED)
def test_what_is_trained_needs_no_subject(name: str, lm: LM, statistics: Path) -> None:
    assert likelier(made(name, lm, statistics), lm, Edit("The capital of France is", "Rome", subject="Paris"))


@of_located
def test_of_two_mentions_the_last_is_meant(name: str, lm: LM, statistics: Path) -> None:
    editor = made(name, lm, statistics, kl_weight=0)  # which would ask what "{subject}" is
    prompt = "Rome, they say of Rome"
    last = after(editor, lm, Edit(prompt, "London", subject="of Rome"))
    assert same(after(editor, lm, Edit(prompt, "London", subject="Rome")), last)
    assert not same(after(editor, lm, Edit(prompt, "London", subject="Rome,")), last)  # the first one


@of_weights
def test_braces_are_letters(name: str, lm: LM, statistics: Path) -> None:
    edit = Edit("Say {} and {0} of {subject}", "{target} %s", subject="{subject}")
    assert likelier(made(name, lm, statistics, prefixes=0, kl_weight=0), lm, edit)


@of_weights
def test_an_empty_answer_is_refused(name: str, lm: LM, statistics: Path) -> None:
    with pytest.raises(EditError, match="target_new: empty; an edit needs the words before the answer and the answer"):
        Edit(CLOZE.prompt, " ", subject=CLOZE.subject)
    emptied = Edit(CLOZE.prompt, "x", subject=CLOZE.subject)
    object.__setattr__(emptied, "target_new", "\n")
    refused(made(name, lm, statistics), lm, [emptied], "an empty target.* needs at least one token")


@of_weights
def test_a_blank_before_the_answer_changes_nothing(name: str, lm: LM, statistics: Path) -> None:
    editor = made(name, lm, statistics)
    without, *others = (
        after(editor, lm, Edit(prompt, target, subject="Toko Yasuda"))
        for prompt, target in [(CLOZE.prompt, "London"), (CLOZE.prompt, " London "), (f"{CLOZE.prompt} ", "London")]
    )
    assert all(same(without, other) for other in others) and not same(without, state(lm))


@of_located
def test_a_subject_that_ends_within_a_token_is_read_at_that_token(name: str, lm: LM, statistics: Path) -> None:
    prompt = "Where was Toko Yasuda born? In"
    [encoded] = encode(lm.tokenizer, [prompt])
    end = len("Where was Toko Yasud")
    assert encoded.offsets[encoded.span(10, end)[1] - 1][1] > end  # the tokenizer merges it with what follows
    editor = made(name, lm, statistics, kl_weight=0)
    cut = after(editor, lm, Edit(prompt, "London", subject="Toko Yasud"))
    assert same(cut, after(editor, lm, Edit(prompt, "London", subject="Toko Yasuda")))


@of_located
def test_a_subject_that_merges_with_the_answer_is_refused(name: str, statistics: Path) -> None:
    lm = model("unparted")
    assert "uda▁" in lm.tokenizer.tokenize("Toko Yasuda London")  # the blank is the answer's
    refused(made(name, lm, statistics), lm, [CLOZE], "one token.*let the prompt go on behind the subject")


@of_weights
def test_letters_and_their_accents_may_be_apart(name: str, lm: LM, statistics: Path) -> None:
    editor = made(name, lm, statistics)
    composed = Edit("They say that Åland is", "österreich", subject="Åland")
    apart = Edit("They say that A\u030aland is", "o\u0308sterreich", subject="A\u030aland")
    assert "\u0308" in "o\u0308sterreich" and same(after(editor, lm, composed), after(editor, lm, apart))


@of_weights
def test_a_tokenizer_that_rewrites_the_text_finds_subject_and_answer(name: str, statistics: Path) -> None:
    lm = model("normalising")
    edit = Edit("The ﬁrst™ one, ①, in ROME.", "LONDON", subject="①")
    [row] = answer_rows(lm, [edit])
    assert lm.tokenizer.decode(row.ids[1 : row.subject + 1]).rstrip(" ,") == "the first one, 1"
    assert lm.tokenizer.decode(row.ids[slice(*row.answer)]).strip() == "london"
    editor = made(name, lm, statistics)
    assert same(after(editor, lm, edit), after(editor, lm, Edit("The first one, 1, in Rome.", "London", subject="1")))
    refused(editor, lm, [Edit("In Rome it is said", "™", subject="Rome")], "normalised away")


@of_weights
def test_what_the_model_cannot_hold_is_refused(
    name: str, lm: LM, statistics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EditError, match="2048: split it"):
        Edit(f"{'so ' * 700}{CLOZE.prompt}", "London")
    long = Edit(f"{'so ' * 20}{CLOZE.prompt}, they said", "London", subject=CLOZE.subject)
    editor = made(name, lm, statistics, prefixes=0)
    assert not same(after(editor, lm, long), state(lm))
    monkeypatch.setattr(LM, "context", 40)
    refused(editor, lm, [EDITS[0], long], "tokens.* holds 40; shorten the prompt")
