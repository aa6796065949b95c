"""Edits kept in a folder come back to the bit, on the model they were made of and on no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from editors_kit import EDITS, make, memory, same, state

import lte
from lte.editors import EDITORS, artefact
from lte.editors.artefact import ArtefactError, load_artefact
from lte.editors.base import EditorError, Handle, HandleError, Rewrite
from lte.editors.manifest import MANIFEST, TENSORS, read_artefact
from lte.edits import Edit
from lte.models import LM

every_editor = pytest.mark.parametrize("name", EDITORS)


def told(folder: Path) -> dict[str, Any]:
    """What a manifest says."""
    return dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def write_by_hand(lm: LM, layer: int, seed: int, edits: list[Edit] = EDITS[:1]) -> Handle:
    """A rank-one change of a layer that no editor computed."""
    torch.manual_seed(seed)
    with ExitStack() as undo:
        W = Rewrite(lm.mlp_out(layer))
        undo.callback(W.restore_)
        W.add_(0.1 * torch.outer(*(torch.randn(n, dtype=torch.float64) for n in W.weight.shape)))
        return Handle(lm, "hand", edits, undo, {f"{lm.layout.mlp_out.format(layer)}.weight": W}, plain=True)


# --- there and back --------------------------------------------------------------------------------------------------


@every_editor
def test_what_is_saved_is_loaded_to_the_bit_and_undone_to_the_bit(name: str, tiny_lm: LM, tmp_path: Path) -> None:
    before, base = state(tiny_lm), tiny_lm.weight_hash()
    handle = make(name, tiny_lm, tmp_path).apply(tiny_lm, EDITS)
    now, asked = state(tiny_lm), [p.query for p in tiny_lm.prompts([e.prompt for e in EDITS])]
    id = handle.save(tmp_path / "kept")
    touched = handle.touched
    handle.undo()
    with load_artefact(tiny_lm, tmp_path / "kept", memory=memory) as again:
        assert same(now, state(tiny_lm)) and [p.query for p in tiny_lm.prompts([e.prompt for e in EDITS])] == asked
        assert (again.editor, again.touched, again.artefact) == (name, touched, id)
        assert [e.statement for e in again.edits] == [e.statement for e in EDITS]
        assert again.save(tmp_path / "again") == id  # the same change is the same artefact, whoever saves it
    assert same(before, state(tiny_lm)) and tiny_lm.routes == [] and tiny_lm.handles == []
    row = told(tmp_path / "kept")
    assert row["base"] == row["root"] == base and row["under"] == [] and row["versions"]["lte"] == lte.__version__
    [part] = row["made"]
    assert part["editor"] == name and part["config"]["editor"] == name and part["touched"] == list(touched)
    assert [e["target_new"] for e in part["edits"]] == [e.target_new for e in EDITS]
    assert set(row["parameters"]) == set(touched) and (tmp_path / "kept" / TENSORS).exists() == bool(touched)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_architecture_and_dtype(any_lm: LM, dtype: torch.dtype, tmp_path: Path) -> None:
    any_lm.model.to(dtype)
    handle = write_by_hand(any_lm, 1, seed=4)
    now = state(any_lm)
    handle.save(tmp_path / "kept")
    handle.undo()
    with load_artefact(any_lm, tmp_path / "kept"):
        assert same(now, state(any_lm))
    [kept] = told(tmp_path / "kept")["parameters"].values()
    assert kept["rank"] == 1 and kept["form"] in ("factors", "finer") and kept["left_out"] < 1e-6


def test_another_architecture_stores_its_weights_transposed(any_other: LM, tmp_path: Path) -> None:
    handle = make("rome", any_other, tmp_path).apply(any_other, EDITS)
    now = state(any_other)
    handle.save(tmp_path / "kept")
    handle.undo()
    with load_artefact(any_other, tmp_path / "kept"):
        assert same(now, state(any_other))
    [kept] = told(tmp_path / "kept")["parameters"].values()
    assert kept["rank"] == 2 and tuple(kept["shape"]) == tuple(any_other.mlp_out(1).T.shape)


def test_joined_handles_are_one_artefact_that_names_both(tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    rome = make("rome", tiny_lm, tmp_path)
    handle = rome.apply(tiny_lm, EDITS[:1])
    handle.join(rome.apply(tiny_lm, EDITS[1:]))
    handle.join(make("ft_m", tiny_lm, tmp_path, layer=0).apply(tiny_lm, EDITS))
    now = state(tiny_lm)
    handle.save(tmp_path / "kept")
    handle.undo()
    assert [(p["editor"], len(p["edits"])) for p in told(tmp_path / "kept")["made"]] == [("rome", 2), ("ft_m", 2)]
    with load_artefact(tiny_lm, tmp_path / "kept") as again:
        assert same(now, state(tiny_lm)) and len(again.touched) == 2 and again.editor == "rome+ft_m"
    assert same(before, state(tiny_lm))


def test_a_joined_handle_knows_the_sum_of_what_was_written(tiny_lm: LM) -> None:
    first = write_by_hand(tiny_lm, 1, seed=1)
    [name] = first.touched
    second = write_by_hand(tiny_lm, 1, seed=2)
    both = first.rewrites[name].change + second.rewrites[name].change
    first.join(second)
    [written] = artefact.changes(first)
    torch.testing.assert_close(written.change, both, rtol=1e-13, atol=1e-13)
    assert torch.linalg.matrix_rank(written.change) == 2  # of the bits it would be 32: every entry is rounded


def test_a_handle_below_others_is_saved_as_it_was_made(tiny_lm: LM, tmp_path: Path) -> None:
    first = write_by_hand(tiny_lm, 1, seed=1)
    now, base = state(tiny_lm), tiny_lm.weight_hash()
    with write_by_hand(tiny_lm, 1, seed=2) as second, write_by_hand(tiny_lm, 0, seed=3):
        first.save(tmp_path / "first")
        second.save(tmp_path / "second")
    first.undo()
    row = told(tmp_path / "second")
    assert (row["root"], row["base"]) == (tiny_lm.weight_hash(), base) and row["under"] == [first.artefact]
    with load_artefact(tiny_lm, tmp_path / "first"):
        assert same(now, state(tiny_lm))


def test_edits_carry_no_id_of_a_memory(tiny_lm: LM, tmp_path: Path) -> None:
    handle = make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS)
    assert all(e.id for e in handle.edits)
    handle.save(tmp_path / "kept")
    assert all(e.id is None for e in read_artefact(tmp_path / "kept").manifest.edits)


def test_editors_of_the_prompt_are_asked_again_in_order(tiny_lm: LM, tmp_path: Path) -> None:
    handle = make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS[:1])
    handle.join(make("lte", tiny_lm, tmp_path).apply(tiny_lm, EDITS[1:]))
    handle.save(tmp_path / "kept")
    handle.undo()
    with load_artefact(tiny_lm, tmp_path / "kept", memory=memory) as again:
        assert [(p.editor, len(p.edits)) for p in again.parts] == [("ice", 1), ("lte", 1)] and len(tiny_lm.routes) == 2
    assert tiny_lm.routes == [] and tiny_lm.handles == []
    del tiny_lm.adapters["lte"]  # the second cannot be asked, so the first is taken back
    with pytest.raises(EditorError, match="no aligned adapter"):
        load_artefact(tiny_lm, tmp_path / "kept", memory=memory)
    assert tiny_lm.routes == [] and tiny_lm.handles == []


def test_it_is_at_hand_in_the_package(tiny_lm: LM, tmp_path: Path) -> None:
    write_by_hand(tiny_lm, 1, seed=1).save(tmp_path / "kept")
    tiny_lm.handles[-1].undo()
    with lte.load_artefact(tiny_lm, tmp_path / "kept") as handle:
        assert handle.active


# --- where it belongs ------------------------------------------------------------------------------------------------


def test_another_model_is_refused_with_both_hashes(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
    made_on = tiny_lm.weight_hash()
    tiny_lm.mlp_out(2)[0, 0] += 1
    before = state(tiny_lm)
    for compose in (False, True):
        with pytest.raises(ArtefactError, match=f"{made_on}.*{tiny_lm.weight_hash()}.*load 'tiny-llama' in float32"):
            load_artefact(tiny_lm, tmp_path / "kept", compose)
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []


def test_the_same_weights_in_another_dtype_are_another_model(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
    tiny_lm.model.to(torch.bfloat16)
    with pytest.raises(ArtefactError, match="in float32, which it was made on"):
        load_artefact(tiny_lm, tmp_path / "kept")


def test_handles_of_artefacts_are_undone_newest_first_and_once(tiny_lm: LM, tmp_path: Path) -> None:
    before = state(tiny_lm)
    for seed in (1, 2):
        with write_by_hand(tiny_lm, 1, seed) as handle:
            handle.save(tmp_path / str(seed))
    first = load_artefact(tiny_lm, tmp_path / "1")
    between = state(tiny_lm)
    second = load_artefact(tiny_lm, tmp_path / "2", compose=True)
    with pytest.raises(HandleError, match="undo that one first"):
        first.undo()
    second.undo()
    assert same(between, state(tiny_lm))
    first.undo()
    assert same(before, state(tiny_lm))
    with pytest.raises(HandleError, match="undone before"):
        first.undo()


def test_an_artefact_in_force_is_not_loaded_again(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
        with pytest.raises(ArtefactError, match="in force already"):
            load_artefact(tiny_lm, tmp_path / "kept", compose=True)
    with load_artefact(tiny_lm, tmp_path / "kept"):
        now = state(tiny_lm)
        with pytest.raises(ArtefactError, match="in force already"):
            load_artefact(tiny_lm, tmp_path / "kept", compose=True)
        assert same(now, state(tiny_lm)) and len(tiny_lm.handles) == 1


# --- composed --------------------------------------------------------------------------------------------------------


@pytest.fixture
def several(tiny_lm: LM, tmp_path: Path) -> Callable[..., dict[str, torch.Tensor]]:
    """Saves changes made by hand, each on the unedited model, then loads them in an order and gives the weights."""
    for name, layer in (("a", 0), ("b", 1), ("c", 1)):
        with write_by_hand(tiny_lm, layer, seed=ord(name)) as handle:
            handle.save(tmp_path / name)

    def load(*names: str) -> dict[str, torch.Tensor]:
        before = state(tiny_lm)
        handles = [load_artefact(tiny_lm, tmp_path / name, compose=True) for name in names]
        now = state(tiny_lm)
        for handle in reversed(handles):
            handle.undo()
        assert same(before, state(tiny_lm))
        return now

    return load


def test_the_order_is_of_no_matter_where_other_weights_are_changed(several: Any, tiny_lm: LM) -> None:
    one, other = several("a", "b"), several("b", "a")
    assert same(one, other)
    a, b = (f"{tiny_lm.layout.mlp_out.format(layer)}.weight" for layer in (0, 1))
    assert torch.equal(one[a], several("a")[a]) and torch.equal(one[b], several("b")[b])


def test_a_weight_that_several_change_gets_the_sum(several: Any, tiny_lm: LM) -> None:
    name = f"{tiny_lm.layout.mlp_out.format(1)}.weight"
    before, both = tiny_lm.mlp_out(1).double(), several("b", "c")[name].double()
    added = several("b")[name] - before + several("c")[name] - before
    torch.testing.assert_close(both - before, added, rtol=1e-6, atol=1e-6)


def test_an_edited_model_is_another_one_unless_composing_is_asked_for(
    several: Any, tiny_lm: LM, tmp_path: Path
) -> None:
    with load_artefact(tiny_lm, tmp_path / "a"), pytest.raises(ArtefactError, match="compose=True"):
        load_artefact(tiny_lm, tmp_path / "b")


def test_what_lies_on_top_of_others_needs_them(tiny_lm: LM, tmp_path: Path) -> None:
    first = write_by_hand(tiny_lm, 0, seed=1)
    first.save(tmp_path / "first")
    with write_by_hand(tiny_lm, 1, seed=2) as second:
        second.save(tmp_path / "second")
        whole = state(tiny_lm)
    first.undo()
    with pytest.raises(ArtefactError, match=f"on top of other changes .{first.artefact}"):
        load_artefact(tiny_lm, tmp_path / "second", compose=True)
    with load_artefact(tiny_lm, tmp_path / "first"), load_artefact(tiny_lm, tmp_path / "second"):
        assert same(whole, state(tiny_lm))  # what it was made on is there: nothing has to be asked for
    with (
        write_by_hand(tiny_lm, 2, seed=3),
        load_artefact(tiny_lm, tmp_path / "first", compose=True),
        load_artefact(tiny_lm, tmp_path / "second", compose=True),
    ):
        now = state(tiny_lm)
        assert all(torch.equal(now[n], whole[n]) for n in (*first.touched, *second.touched))


def test_what_lies_on_a_change_that_was_never_saved_needs_the_very_weights(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 0, seed=1):
        with write_by_hand(tiny_lm, 1, seed=2) as second:
            second.save(tmp_path / "second")
        with load_artefact(tiny_lm, tmp_path / "second"):
            assert len(tiny_lm.handles) == 2
    with pytest.raises(ArtefactError, match="never saved"):
        load_artefact(tiny_lm, tmp_path / "second", compose=True)


def test_edits_in_the_prompt_go_with_any_model(tiny_lm: LM, any_other: LM, tmp_path: Path) -> None:
    with make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS) as handle:
        handle.save(tmp_path / "kept")
    with load_artefact(any_other, tmp_path / "kept", memory=memory) as handle:
        assert len(any_other.routes) == 1 and len(handle.edits) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_cannot_be_kept_is_not_saved(tiny_lm: LM, tmp_path: Path) -> None:
    handle = write_by_hand(tiny_lm, 1, seed=1)
    handle.join(make("ice", tiny_lm, tmp_path).apply(tiny_lm, EDITS))
    with pytest.raises(EditorError, match="before they are joined"):
        handle.save(tmp_path / "kept")
    handle.undo()
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        pass
    with pytest.raises(HandleError, match="was undone"):
        handle.save(tmp_path / "kept")
    with ExitStack() as undo:
        silent = Handle(tiny_lm, "hand", EDITS, undo, ["model.norm.weight"])
    with pytest.raises(EditorError, match=r"what model\.norm\.weight was before"):
        silent.save(tmp_path / "kept")
    assert not list(tmp_path.glob("*kept*"))


def test_nothing_is_written_over_and_nothing_half_written(
    tiny_lm: LM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").write_text("mine")
        for taken in (tmp_path / "full", tmp_path / "full" / "file"):
            with pytest.raises(EditorError, match="not empty"):
                handle.save(taken)
        (tmp_path / "empty").mkdir()
        handle.save(tmp_path / "empty")

        def full_disk(*args: object, **named: object) -> None:
            Path(str(args[1])).write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(artefact, "save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            handle.save(tmp_path / "kept")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "full"]


def break_json(folder: Path) -> None:
    (folder / MANIFEST).write_text("{", encoding="utf-8")


def change_manifest(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / MANIFEST).write_text(json.dumps({**told(folder), **values}), encoding="utf-8")

    return change


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / TENSORS).read_bytes())
    content[-1] ^= 1
    (folder / TENSORS).write_bytes(content)


def cut_short(folder: Path) -> None:
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:20])


def other_tensors(folder: Path) -> None:
    import hashlib

    from safetensors.torch import save_file

    save_file({"w:u": torch.zeros(2, 2)}, folder / TENSORS)
    change_manifest(sha256=hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest())(folder)


def no_tensors_at_all(folder: Path) -> None:
    import hashlib

    (folder / TENSORS).write_bytes(b"nonsense")
    change_manifest(sha256=hashlib.sha256(b"nonsense").hexdigest())(folder)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "no artefact.*wanted a folder with lte.json"),
        (break_json, "no artefact"),
        (lambda folder: (folder / MANIFEST).write_text("[]"), "not an artefact's"),
        (lambda folder: (folder / MANIFEST).write_text('{"template": "t"}'), "not an artefact's"),  # an adapter's
        (change_manifest(format=2, versions={"lte": "9.9"}), "format 2.*reads 1.*lte 9.9"),
        (change_manifest(base=3), "base: Input should be a valid string"),
        (change_manifest(surprise=3), "surprise: no such setting"),
        (change_manifest(base="0" * 64), "was changed after it was written"),
        (change_manifest(made=[]), "was changed after it was written"),
        (change_manifest(parameters={}), "was changed after it was written"),
        (lambda folder: (folder / TENSORS).unlink(), "delta.safetensors: cannot be read"),
        (flip_a_byte, "damaged"),
        (cut_short, "damaged"),
        (no_tensors_at_all, "cannot be read"),
        (other_tensors, "not those its manifest names"),
    ],
)
def test_a_damaged_artefact_is_refused(tiny_lm: LM, tmp_path: Path, harm: Callable[[Path], Any], said: str) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
    before = state(tiny_lm)
    harm(tmp_path / "kept")
    with pytest.raises(ArtefactError, match=said):
        load_artefact(tiny_lm, tmp_path / "kept")
    assert same(before, state(tiny_lm)) and tiny_lm.handles == []


def test_an_edit_with_a_control_token_is_refused(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
    row = told(tmp_path / "kept")
    row["made"][0]["edits"][0]["target_new"] = "<|eot_id|>"
    change_manifest(made=row["made"])(tmp_path / "kept")
    with pytest.raises(ArtefactError, match="control token"):
        load_artefact(tiny_lm, tmp_path / "kept")


def test_a_weight_of_another_shape_or_name_is_refused(tiny_lm: LM, tmp_path: Path) -> None:
    with write_by_hand(tiny_lm, 1, seed=1) as handle:
        handle.save(tmp_path / "kept")
        [name] = handle.touched
    row = told(tmp_path / "kept")["parameters"]
    for found in ({name: {**row[name], "shape": [2, 3]}}, {name: {**row[name], "dtype": "torch.float16"}}):
        change_manifest(parameters=found)(tmp_path / "kept")
        with pytest.raises(ArtefactError, match="and the model has"):
            load_artefact(tiny_lm, tmp_path / "kept")
