"""What an editor is, the handle that takes its change back, and how a weight is changed without losing a bit."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from lte.edits import Edit
from lte.models import LM


class EditorError(ValueError):
    """Edits that an editor cannot apply, or a model it cannot apply them to; nothing was changed."""


class HandleError(RuntimeError):
    """A change that cannot be taken back now; the message says which to take back first."""


class Editor(Protocol):
    """Changes a model so that it answers by the edits; `config` holds the settings it does so with."""

    name: str

    @property
    def config(self) -> Any:
        """The settings, frozen."""

    def apply(self, lm: LM, edits: Sequence[Edit]) -> Handle:
        """Put the edits in force, all of them or none; the handle takes them out again."""


@dataclass(frozen=True)
class Part:
    """What one editor put in force, with which settings; a joined handle has several."""

    editor: str
    config: Any
    edits: tuple[Edit, ...]
    touched: tuple[str, ...]


class Handle:
    """Edits in force on a model until `undo`, which restores every bit; also a context manager.

    Handles of one model are a stack: each keeps what stood before it, so the newest goes first.

    editor   who put them in force; by its name alone, the handle does not know the settings
    edits    those in force, with ids where a memory gave them
    undo     what takes them back; it is emptied into the handle, so until then a failure takes back what was done
    touched  names of the parameters that were changed, each with its `Rewrite`, which `save` needs; none for editors
             that work in the prompt
    plain    the undo does nothing but put back the parameters touched
    kept     what the editor is to remember of these edits while they are in force (`remembered`); of edits that are
             joined it remembers the sum, and the undo lets go of it
    """

    def __init__(
        self,
        lm: LM,
        editor: Editor | str,
        edits: Sequence[Edit],
        undo: ExitStack,
        touched: Mapping[str, Rewrite] | Sequence[str] = (),
        plain: bool = False,
        kept: Mapping[Hashable, Tensor] | None = None,
    ) -> None:
        name, config = (editor, None) if isinstance(editor, str) else (editor.name, editor.config)
        self.editor, self.edits, self.touched, self.plain = name, tuple(edits), tuple(touched), plain
        self.parts: tuple[Part, ...] = (Part(name, config, self.edits, self.touched),)
        self.rewrites = dict(touched) if isinstance(touched, Mapping) else {}
        self.kept = dict(kept or {})
        self.artefact: str | None = None  # id of the folder it was loaded from or saved to
        self.lm = lm
        lm.handles.append(self)
        self._undo = undo.pop_all()

    @property
    def active(self) -> bool:
        """Whether the edits are in force."""
        return any(h is self for h in self.lm.handles)

    def undo(self) -> None:
        """Take the edits out of force; every weight, hook and route is again what it was."""
        handles = self.lm.handles
        if not self.active:
            raise HandleError(f"{self!r} was undone before; a change is taken back once")
        if handles[-1] is not self:
            raise HandleError(f"{self!r} lies under {handles[-1]!r}, which builds on it; undo that one first")
        try:
            self._undo.close()
        finally:
            handles.pop()
            self.kept.clear()

    def join(self, newer: Handle) -> None:
        """Take the handle on top of this one into it, so that one undo takes both back.

        What stood before this one is enough to restore weights that both changed, and the newer one's copy is let go:
        a sequence of thousands of edits keeps one copy of a matrix, not thousands.
        """
        if self.lm.handles[-2:] != [self, newer]:
            raise HandleError(f"{newer!r} does not lie on {self!r}; join each handle to the one below it")
        for name in newer.touched:
            if name in self.touched and name in self.rewrites and name in newer.rewrites:
                self.rewrites[name].exact += newer.rewrites[name].change
            elif name in self.touched or name not in newer.rewrites:
                self.rewrites.pop(name, None)  # someone wrote without a `Rewrite`: the sum is not known
            else:
                self.rewrites[name] = newer.rewrites[name]
        self.parts = _merged((*self.parts, *newer.parts))
        self.artefact = None
        rest = newer._undo.pop_all()
        if not (newer.plain and set(newer.touched) <= set(self.touched)):
            self._undo.enter_context(rest)
            self.plain = False
        for key, value in newer.kept.items():  # in place: thousands of steps are one sum
            self.kept[key] = self.kept[key].add_(value) if key in self.kept else value
        newer.kept.clear()
        self.edits += newer.edits
        self.touched = tuple(dict.fromkeys((*self.touched, *newer.touched)))
        self.lm.handles.pop()

    def save(self, folder: str | Path) -> str:
        """Keep the edits in a folder, which `load_artefact` reads; the artefact's id comes back."""
        from lte.editors.artefact import save_artefact  # files are not what an editor is about

        return save_artefact(self, folder)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.active:
            self.undo()

    def __repr__(self) -> str:
        first = f", first {self.edits[0].statement!r}" if self.edits else ""
        return f"<{self.editor}: {len(self.edits)} edits{first}>"


def remembered(lm: LM, key: Hashable) -> Tensor | None:
    """The sum of what all edits in force on the model keep under `key`, not to be written into; `None` of none.

    An editor finds its earlier edits of this model here and nowhere else, so that an undo forgets them, and neither
    another model nor another editor can lead it astray.
    """
    found = [handle.kept[key] for handle in lm.handles if key in handle.kept]
    return None if not found else found[0] if len(found) == 1 else torch.stack(found).sum(0)


def _merged(parts: Sequence[Part]) -> tuple[Part, ...]:
    """Neighbours of one editor and one setting as one part."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        if last and (last.editor, last.config, last.touched) == (part.editor, part.config, part.touched):
            merged[-1] = Part(part.editor, part.config, last.edits + part.edits, part.touched)
        else:
            merged.append(part)
    return tuple(merged)


class Rewrite:
    """A weight under change, (out, in): sums in float64, every write rounded once, what stood before kept whole.

    A bfloat16 weight would lose each change below half its last bit if changes were added to it one by one.

    below  the newest rewrite of this weight that is in force: it goes on from the sum that was rounded into the weight,
           so that a sequence of edits, each with a rewrite of its own, is rounded but once as well
    """

    def __init__(self, weight: Tensor, below: Rewrite | None = None) -> None:
        self.weight = weight
        self.before = weight.detach().clone()  # kept whole: subtracting the change again would leave rounding error
        self.exact = weight.detach().double()
        if self.exact is weight:
            self.exact = weight.detach().clone()
        self.start: Tensor | None = None  # of `exact`, where that is not `before`
        if below is not None:
            told = below.exact if below.weight.stride() == weight.stride() else below.exact.t()
            self.exact = torch.where(told.to(weight.dtype) == weight, told, self.exact)  # unless it was written since
            self.start = self.exact.clone()

    @property
    def change(self) -> Tensor:
        """All that was added, (out, in) in float64, before it was rounded into the weight."""
        return self.exact - (self.before if self.start is None else self.start)

    @torch.no_grad()
    def add_(self, delta: Tensor) -> None:
        """Add `delta` to all that was added before and write the sum."""
        if not torch.isfinite(delta).all():
            raise EditorError("the change to the weight is not finite; lower the learning rate or the clamp")
        self.exact += delta
        if torch.linalg.vector_norm(self.exact, torch.inf) > torch.finfo(self.weight.dtype).max:
            raise EditorError(
                f"the change is too large for a weight in {self.weight.dtype}; lower the learning rate or the clamp, "
                "or load the model in bfloat16 or float32"
            )
        self.weight.copy_(self.exact)

    @torch.no_grad()
    def restore_(self) -> None:
        """Put back every bit that stood when this was made."""
        self.weight.copy_(self.before)


def rewrite_of(lm: LM, name: str, weight: Tensor) -> Rewrite:
    """A rewrite of the parameter `name`, given as an (out, in) view, that goes on from what edits in force made it."""
    newest = next((handle for handle in reversed(lm.handles) if name in handle.touched), None)
    return Rewrite(weight, newest.rewrites.get(name) if newest else None)


def check_finite(lm: LM) -> None:
    """An `EditorError` that names a parameter of the model that is not finite: nothing can be computed with it."""
    for name, parameter in lm.model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise EditorError(
                f"{name} of {lm.name} is not finite, so nothing the model says is; undo the edit that made it so, or "
                "load the model again, in bfloat16 or float32"
            )


def checked(editor: str, edits: Sequence[Edit], subject: bool = False) -> list[Edit]:
    """The edits as a list, or an `EditorError`: none at all, or one without the subject that the method works on."""
    edits = list(edits)
    if not edits:
        raise EditorError(f"{editor}: no edits were given; give at least one")
    for edit in edits if subject else ():
        if not edit.subject.strip():
            raise EditorError(
                f"{editor}: the edit {edit.statement!r} names no subject; the fact is written where its subject is "
                "read: set subject to the words of the prompt that name it"
            )
    return edits
