"""What every editor promises, asked of each that is registered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from editors_kit import EDITS, align, change, elsewhere, make, otherwise, same, state

from lte.config import ConfigError
from lte.editors import EDITORS, editor, editor_from
from lte.editors.base import EditorError, HandleError
from lte.models import LM

every_editor = pytest.mark.parametrize("name", EDITORS)


def test_listing_the_editors_imports_no_torch() -> None:
    code = "import sys, lte.editors; assert list(lte.editors.EDITORS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@every_editor
def test_undo_restores_every_bit(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made = make(name, tiny_lm, tmp_path)
    before, adapters = state(tiny_lm), dict(tiny_lm.adapters)
    handle = made.apply(tiny_lm, EDITS)
    assert [e.statement for e in handle.edits] == [e.statement for e in EDITS] and tiny_lm.handles == [handle]
    handle.undo()
    assert same(before, state(tiny_lm))
    assert tiny_lm.routes == [] and tiny_lm.handles == [] and tiny_lm.adapters == adapters
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in tiny_lm.model.modules())


@every_editor
def test_touched_names_the_changed_parameters(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    with make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS) as handle:
        now = dict(tiny_lm.model.named_parameters())
        assert {n for n, p in now.items() if not torch.equal(before[n], p)} == set(handle.touched)
        assert bool(handle.touched) != bool(tiny_lm.routes)  # in the weights or in the prompt


@every_editor
def test_undo_goes_newest_first_and_once(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made, before = make(name, tiny_lm, tmp_path), state(tiny_lm)
    first = made.apply(tiny_lm, EDITS[:1])
    between = state(tiny_lm)
    second = made.apply(tiny_lm, EDITS[1:])
    with pytest.raises(HandleError, match="undo that one first"):
        first.undo()
    assert tiny_lm.handles == [first, second]
    second.undo()
    assert same(between, state(tiny_lm))
    first.undo()
    assert same(before, state(tiny_lm)) and tiny_lm.routes == []
    with pytest.raises(HandleError, match="undone before"):
        first.undo()


@every_editor
def test_joined_handles_are_undone_as_one(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made, before = make(name, tiny_lm, tmp_path), state(tiny_lm)
    first = made.apply(tiny_lm, EDITS[:1])
    second = made.apply(tiny_lm, EDITS[1:])
    now, asked = state(tiny_lm), tiny_lm.prompts(["Where does Toko Yasuda play?"])
    first.join(second)
    assert tiny_lm.handles == [first] and [e.statement for e in first.edits] == [e.statement for e in EDITS]
    assert same(now, state(tiny_lm)) and tiny_lm.prompts(["Where does Toko Yasuda play?"]) == asked
    with pytest.raises(HandleError):
        second.undo()
    first.undo()
    assert same(before, state(tiny_lm)) and tiny_lm.routes == [] and tiny_lm.handles == []


@pytest.mark.parametrize("upper", EDITORS)
@every_editor
def test_handles_of_two_editors_join(name: str, upper: str, tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    first = make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS[:1])
    second = make(upper, tiny_lm, tmp_path, **elsewhere(upper)).apply(tiny_lm, EDITS[1:])
    with pytest.raises(HandleError, match="does not lie on"):
        second.join(first)
    first.join(second)
    first.undo()
    assert same(before, state(tiny_lm)) and tiny_lm.routes == [] and tiny_lm.handles == []


@every_editor
def test_a_with_block_takes_the_edits_back_also_when_it_fails(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    made, before = make(name, tiny_lm, tmp_path), state(tiny_lm)
    with pytest.raises(ZeroDivisionError), made.apply(tiny_lm, EDITS[:1]):
        raise ZeroDivisionError
    assert same(before, state(tiny_lm)) and tiny_lm.routes == [] and tiny_lm.handles == []
    with made.apply(tiny_lm, EDITS[:1]) as handle:
        handle.undo()  # by hand is enough


@every_editor
def test_an_apply_that_fails_takes_back_what_it_did(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    class Full(list):  # type: ignore[type-arg]
        def append(self, handle: object) -> None:
            raise MemoryError

    made, before = make(name, tiny_lm, tmp_path), state(tiny_lm)
    tiny_lm.handles = Full()
    with pytest.raises(MemoryError):
        made.apply(tiny_lm, EDITS)
    assert same(before, state(tiny_lm)) and tiny_lm.routes == []


@every_editor
def test_no_edits_is_a_clear_error(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    with pytest.raises(EditorError, match=f"{name}: no edits"):
        make(name, tiny_lm, tmp_path).apply(tiny_lm, [])


@every_editor
def test_the_same_seed_makes_the_same_change_to_the_bit(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    one = change(make(name, tiny_lm, tmp_path / "a"), tiny_lm)
    torch.manual_seed(7)  # the process's own generator is not what decides
    two = change(make(name, tiny_lm, tmp_path / "b"), tiny_lm)
    assert same(one[0], two[0]) and one[1] == two[1]


@every_editor
def test_editors_in_one_process_are_isolated(name: str, tiny_lm: LM, any_other: LM, tmp_path: Path) -> None:
    made = make(name, tiny_lm, tmp_path)
    alone = change(made, tiny_lm)
    if name == "lte":
        align(any_other)
    change(made, any_other)  # the same editor on another model, and another editor on the same model
    with make(name, tiny_lm, tmp_path, **otherwise(name)).apply(tiny_lm, EDITS[1:]):
        pass
    again = change(made, tiny_lm)
    assert same(alone[0], again[0]) and alone[1] == again[1]


@every_editor
def test_either_padding_side_makes_the_same_change(name: str, tiny_lm: LM, tmp_path: Path) -> None:  # B19
    changes = []
    for side in ("left", "right"):
        tiny_lm.tokenizer.padding_side = side
        try:
            changes.append(change(make(name, tiny_lm, tmp_path / side), tiny_lm))
        finally:
            tiny_lm.tokenizer.padding_side = "left"
    assert same(changes[0][0], changes[1][0]) and changes[0][1] == changes[1][1]


@every_editor
def test_defaults_and_settings_make_an_editor(name: str) -> None:
    assert editor(name).name == name
    assert editor(name, {}).config == editor(name).config
    with pytest.raises(ConfigError, match="no such setting"):
        editor(name, {"strength": 3})


def test_an_unknown_editor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"there are lte, ice, .*rome, memit"):
        editor("roma")


def test_a_configuration_of_another_editor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ft_m.yaml"
    path.write_text("editor: ft_m\n")
    with pytest.raises(ConfigError, match="editor"):
        editor("rome", path)
    path.write_text("layer: 2\n")
    with pytest.raises(ConfigError, match="editor"):
        editor_from(path)
