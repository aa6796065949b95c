"""One unit's work: edits come into force step by step, questions are asked, everything is taken back and proven so."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lte.edits import Case, Edit, row_of
from lte.evaluate.cost import Measured, artefact_bytes, seconds_alone, tokens_added
from lte.evaluate.growth import norms
from lte.evaluate.journal import Key, Row
from lte.evaluate.plan import FINAL, PLAIN, Chain, Point, Unit, points_of
from lte.evaluate.probes import Answers, ask, questions, rows, stated

if TYPE_CHECKING:
    from lte.editors.base import Handle
    from lte.evaluate.site import Site

log = logging.getLogger(__name__)
PORTION = 64  # cases asked together, and lost together when a run is killed
WHOLE_UNIT = -1  # in the place of a chain's number
Record = tuple[Key, Any]


class Diverged(Exception):
    """Edits made again after a kill did not give the weights that they gave before it."""


@dataclass
class _State:
    """What is in force in a chain so far."""

    handle: Handle | None = None
    steps: dict[int, int] = field(default_factory=dict)  # doc id -> its step
    refused: dict[int, str] = field(default_factory=dict)  # doc id -> why its edit is not in force
    during: str | None = None  # hash of the parameters touched


def doc_of(case: Case) -> Row:
    """A case as it stands in a row: without its references, which may be hundreds of articles."""
    return row_of(replace(case, references=()))


class Worker:
    """Makes the edits of a unit and asks its questions."""

    def __init__(self, site: Site, unit: Unit) -> None:
        self.site, self.unit, self.config = site, unit, site.config
        self.cases: Sequence[Case] = site.cases[unit.benchmark]
        self.lm, self.proof, self.editor = site.subject(unit), site.proof, site.editor(unit)

    def run(self, done: Mapping[Key, Any]) -> Iterator[Record]:
        """The records that are not done."""
        for chain in self.site.chains(self.unit):
            if Key(chain.index, "end") in done:
                continue
            try:
                yield from self.chain(chain, {k for k in done if k.chain == chain.index}, done)
            except Diverged as why:
                log.warning("%s: sequence %d: %s; it is asked from its beginning", self.unit.id, chain.index, why)
                yield Key(chain.index, "drop"), None
                yield from self.chain(chain, set(), {})
        whole = Key(WHOLE_UNIT, "end", self.unit.shard.index, self.unit.shard.count)
        if whole not in done:  # single edits were checked by what they touched; now every parameter is
            yield whole, {"invalid": self.proof.difference(self.site.lm), "after": None}

    def chain(self, chain: Chain, done: set[Key], known: Mapping[Key, Any]) -> Iterator[Record]:
        """A chain's records: each step, each portion of questions, and how the model was found at the end."""
        if chain.index == 0 and self.config.ability:
            self.site.ability()  # of the unedited model, while nothing is in force
        before = self.site.baselines[self.unit.benchmark].of(chain.docs)
        points = list(enumerate(points_of(chain, self.config)))
        if self.editor is None:  # of the unedited model there is only an end
            points = [(n, p) for n, p in points if p.name == FINAL]
        state, about = _State(), self.site.about(self.unit, chain)
        try:
            for at, docs in enumerate(chain.steps):
                spent = self.step(state, at, docs)
                key = Key(chain.index, "step", at)
                if key not in done:
                    yield key, {**spent, "about": about, "during": state.during}
                elif known[key]["during"] != state.during:
                    raise Diverged(f"step {at} gave other weights than before the run was interrupted")
                for n, point in points:
                    if point.step == at:
                        yield from self.point(state, chain, n, point, before, done)
            if chain.index == 0:
                yield from self.measured(chain, state, done)
        finally:
            if state.handle is not None and state.handle.active:
                state.handle.undo()
        touched = state.handle.touched if state.handle else ()
        # one edit is cheap, a hash of the whole model is not
        names = None if len(chain.docs) > 1 or self.editor is None else touched
        after = self.proof.now(self.site.lm, names)
        invalid = self.proof.difference(self.site.lm, names, after)
        shown = after if self.editor is None else self.proof.now(self.site.lm, touched)
        yield Key(chain.index, "end"), {"invalid": invalid, "after": shown}

    def step(self, state: _State, at: int, docs: Sequence[int]) -> dict[str, Any]:
        """Bring a step's edits into force on top of those before; an edit that the editor refuses is not in force."""
        cases = [self.cases[doc] for doc in docs]
        state.steps |= dict.fromkeys(docs, at)
        if self.editor is None:
            state.during = self.site.weights(self.unit)
            return {"cases": len(docs), "edits": 0, "error": None}
        edits = list({(e.prompt, e.target_new): e for case in cases for e in case.edits}.values())
        error, spent = self.apply(state, edits)
        if error:
            state.refused |= dict.fromkeys(docs, error)
        touched = state.handle.touched if state.handle else ()
        state.during = self.proof.now(self.lm, touched)
        size = artefact_bytes(self.lm, state.handle) if state.handle else 0
        return {
            "cases": len(docs),
            "edits": 0 if error else len(edits),
            "error": error,
            "seconds": spent.seconds,
            "peak": spent.peak,
            "bytes": size,
            "norms": None if error else norms(state.handle),
        }

    def apply(self, state: _State, edits: Sequence[Edit]) -> tuple[str | None, Measured]:
        """Apply the edits and join them to those in force; why they were refused, and what it cost."""
        assert self.editor is not None
        error, handle = None, None
        with Measured(self.lm.device) as spent:
            try:
                handle = self.editor.apply(self.lm, edits)
            except ValueError as refusal:
                error = f"{type(refusal).__name__}: {refusal}"
                log.warning("%s: %s", self.unit.editor, error)
        if state.handle is None:
            state.handle = handle
        elif handle is not None:
            state.handle.join(handle)
        return error, spent

    def point(
        self, state: _State, chain: Chain, number: int, point: Point, before: Answers, done: set[Key]
    ) -> Iterator[Record]:
        """The rows of a point that are not done, a portion of its cases at a time."""
        in_force = self.in_force(state)
        replaced = stated(self.cases[doc] for doc in in_force)
        for start in range(0, len(point.docs), PORTION):
            key = Key(chain.index, "rows", number, start // PORTION)
            if key in done:
                continue
            docs = point.docs[start : start + PORTION]
            asked = {doc: questions(self.cases[doc], self.config) for doc in docs}
            flat = [q for qs in asked.values() for q in qs]
            with Measured(self.lm.device) as spent:
                after = ask(self.lm, flat, self.config, before)
            added = self.added(asked)
            moved = self.proof.now(self.lm, state.handle.touched if state.handle else ()) != state.during
            found = [
                {
                    **self.row(state, chain, point, doc, len(in_force)),
                    "invalid": "the weights changed while questions were asked" if moved and self.editor else None,
                    "prompt_tokens_added": added[doc],
                    "probes": rows(asked[doc], self.cases[doc], replaced, before, after, self.config),
                }
                for doc in docs
            ]
            yield key, {"rows": found, "cost": {"seconds": spent.seconds, "answers": len(flat)}}

    def in_force(self, state: _State) -> Sequence[int]:
        """The cases whose edits are in force: of a model edited elsewhere, all that it is asked about."""
        if self.editor is None:
            return () if self.unit.editor == PLAIN else range(len(self.cases))
        return [doc for doc in state.steps if doc not in state.refused]

    def added(self, asked: Mapping[int, Sequence[Any]]) -> dict[int, float | None]:
        """The tokens that stand before a question of each case, on average; `None` where they cannot be counted."""
        prompts = {doc: [q.prompt for q in qs if q.kind not in ("fluency", "legacy")] for doc, qs in asked.items()}
        flat = list(dict.fromkeys(p for each in prompts.values() for p in each))
        counted = tokens_added(self.lm, flat)
        known = {prompt: n for prompt, n in zip(flat, counted, strict=True) if n is not None}
        return {
            doc: sum(known[p] for p in each) / len(each) if len(known) == len(flat) else None
            for doc, each in prompts.items()
        }

    def row(self, state: _State, chain: Chain, point: Point, doc: int, in_force: int) -> Row:
        """What a row says besides its probes."""
        case = self.cases[doc]
        touched = state.handle.touched if state.handle else ()
        later = sum(1 for step in state.steps.values() if step > state.steps[doc])
        return {
            "doc_id": doc,
            "doc": doc_of(case),
            "doc_hash": hashlib.sha256(json.dumps(doc_of(case), sort_keys=True).encode()).hexdigest(),
            "target": case.edit.target_new,
            "benchmark": self.unit.benchmark,
            "editor": self.unit.editor,
            "protocol": self.unit.protocol,
            "seed": self.unit.seed,
            "sequence": chain.index,
            "step": state.steps[doc],
            "point": point.name,
            "in_force": in_force,
            "age": later,
            "error": state.refused.get(doc),
            "weights": {
                "of": "all" if self.editor is None else list(touched),
                "before": self.proof.before(None if self.editor is None else touched),
                "during": state.during,
            },
        }

    def measured(self, chain: Chain, state: _State, done: set[Key]) -> Iterator[Record]:
        """What is measured once a unit, while its first chain is in force: the time of one answer, other abilities."""
        key = Key(chain.index, "latency")
        if self.config.latency_answers and key not in done:
            prompts = [self.cases[doc].edit.prompt for doc in chain.docs][: self.config.latency_answers + 1]
            yield key, seconds_alone(self.lm, prompts * 2 if len(prompts) == 1 else prompts, self.config.max_new_tokens)
        key = Key(chain.index, "ability")
        if self.config.ability and self.unit.editor != PLAIN and key not in done:
            yield key, {"before": self.site.ability(), "after": self.site.ability(self.lm)}
