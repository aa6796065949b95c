"""Edits in the prompt: the right ones, the adapter only with them, nothing else touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from editors_kit import EDITS, align, make, memory

from lte.editors import editor
from lte.editors.base import EditorError
from lte.editors.in_context import ADAPTER, LTE, LTEConfig, Recall
from lte.edits import EditError
from lte.memory import EditMemory
from lte.models import LM
from lte.prompt import with_edits

UNRELATED = "What is the capital of France?"
NAMES = ["lte", "ice"]


@pytest.mark.parametrize("name", NAMES)
def test_a_query_in_scope_gets_its_edit(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    with make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS) as handle:
        [prompt] = tiny_lm.prompts([EDITS[0].prompt])
        assert prompt.query == with_edits([EDITS[0].statement], EDITS[0].prompt)
        assert prompt.edits == (handle.edits[0].id,)
        assert prompt.adapter == (ADAPTER if name == "lte" else None)


@pytest.mark.parametrize("name", NAMES)
def test_a_query_out_of_scope_is_the_base_models_to_the_bit(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made = make(name, tiny_lm, tmp_path)
    before = tiny_lm.score([UNRELATED], ["Paris"]), tiny_lm.answer([UNRELATED], max_new_tokens=4)
    with made.apply(tiny_lm, EDITS):
        [prompt] = tiny_lm.prompts([UNRELATED])
        assert prompt.query is UNRELATED and prompt.adapter is None and prompt.edits == ()
        assert (tiny_lm.score([UNRELATED], ["Paris"]), tiny_lm.answer([UNRELATED], max_new_tokens=4)) == before


def test_the_adapter_acts_only_where_an_edit_is_in_play(tiny_lm: LM, tmp_path: Path) -> None:
    query = [EDITS[0].prompt]
    scores = {}
    for name in NAMES:
        with make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS):
            scores[name] = tiny_lm.score(query, ["English"])[0].logprob
    assert scores["lte"] != scores["ice"]


@pytest.mark.parametrize("name", NAMES)
def test_edits_on_top_join_the_memory_and_leave_it_again(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made = make(name, tiny_lm, tmp_path)
    queries = [e.prompt for e in EDITS]
    with made.apply(tiny_lm, EDITS[:1]) as first:
        with made.apply(tiny_lm, EDITS[1:]) as second:
            assert [p.edits for p in tiny_lm.prompts(queries)] == [(first.edits[0].id,), (second.edits[0].id,)]
            assert len(tiny_lm.routes) == 1
        assert [p.edits for p in tiny_lm.prompts(queries)] == [(first.edits[0].id,), ()]
    assert tiny_lm.routes == []


def test_another_editors_edits_wait_underneath(tiny_lm: LM, tmp_path: Path) -> None:
    one, two = make("ice", tiny_lm, tmp_path), make("ice", tiny_lm, tmp_path)
    with one.apply(tiny_lm, EDITS[:1]):
        with two.apply(tiny_lm, EDITS[1:]):
            assert tiny_lm.prompts([EDITS[0].prompt])[0].edits == ()
        assert tiny_lm.prompts([EDITS[0].prompt])[0].edits != ()


@pytest.mark.parametrize("name", NAMES)
def test_undo_closes_the_memory(name: str, tiny_lm: LM, monkeypatch: pytest.MonkeyPatch) -> None:
    align(tiny_lm)
    opened = memory()
    closed: list[bool] = []
    close = opened.close
    monkeypatch.setattr(opened, "close", lambda: (close(), closed.append(True)))
    with editor(name, memory=lambda: opened).apply(tiny_lm, EDITS):
        assert isinstance(tiny_lm.routes[0], Recall) and len(opened) == 2 and not closed
    assert closed == [True]


@pytest.mark.parametrize("name", NAMES)
def test_a_memory_that_refuses_the_edits_leaves_nothing_behind(
    name: str, tiny_lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    align(tiny_lm)
    opened = memory()
    monkeypatch.setattr(opened, "add_many", lambda edits: (_ for _ in ()).throw(EditError("too long")))
    with pytest.raises(EditError, match="too long"):
        editor(name, memory=lambda: opened).apply(tiny_lm, EDITS)
    assert tiny_lm.routes == [] and tiny_lm.handles == []


def test_k_edits_at_most(tiny_lm: LM, tmp_path: Path) -> None:
    both = "Do Danielle Darrieux and Toko Yasuda speak the mother tongue?"
    counts = []
    for k in (1, 2):
        with make("ice", tiny_lm, tmp_path, k=k, memory={}).apply(tiny_lm, EDITS):
            counts.append(len(tiny_lm.prompts([both])[0].edits))
    assert counts == [1, 2]


def test_the_encoder_is_shared_by_the_memories_of_an_editor(tiny_lm: LM) -> None:
    made = editor("ice")
    one, two = made._own_memory(), made._own_memory()  # type: ignore[attr-defined]
    assert isinstance(one, EditMemory) and one is not two and one.encoder is two.encoder
    one.close()
    two.close()


def test_without_an_adapter_lte_says_what_to_do(tiny_lm: LM) -> None:
    with pytest.raises(EditorError, match="no aligned adapter"):
        LTE(LTEConfig(), memory).apply(tiny_lm, EDITS)
    assert tiny_lm.routes == []


@pytest.mark.parametrize("manifest", [{"template": "lte-0"}, {"template": None}])
def test_an_adapter_of_another_template_is_refused(tiny_lm: LM, manifest: dict[str, str]) -> None:
    align(tiny_lm, **manifest)
    with pytest.raises(EditorError, match="prompt template"):
        LTE(LTEConfig(), memory).apply(tiny_lm, EDITS)
    assert tiny_lm.routes == [] and tiny_lm.handles == []


def test_an_adapter_of_other_weights_is_warned_of(tiny_lm: LM, caplog: pytest.LogCaptureFixture) -> None:
    align(tiny_lm, base_sha256=tiny_lm.weight_hash())
    LTE(LTEConfig(), memory).apply(tiny_lm, EDITS).undo()
    assert "other weights" not in caplog.text
    align(tiny_lm, base_sha256="0" * 64)
    LTE(LTEConfig(), memory).apply(tiny_lm, EDITS).undo()
    assert "other weights" in caplog.text


def test_the_answer_uses_the_rewritten_prompt(tiny_lm: LM, tmp_path: Path) -> None:
    with make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS):
        routed = tiny_lm.score([EDITS[0].prompt], ["English"])[0]
    by_hand = tiny_lm.score([with_edits([EDITS[0].statement], EDITS[0].prompt)], ["English"])[0]
    assert routed == by_hand and not torch.isnan(torch.tensor(routed.logprob))
