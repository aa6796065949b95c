"""Stage 2 of the gate: a learned check whether an edit that came near a query also answers it."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lte.memory.encoder import Encoder, Vectors, checked_vectors
from lte.memory.fault import MemoryFault
from lte.memory.index import Entry, Hit
from lte.memory.scope_text import AMONG, DENY, FALSE, KIN, Side, content, side

FORMAT = "lte-scope-1"
FEATURES = (
    "relation",  # cosine of query and edit, the subject blanked out on both sides
    "relation_learned",  # the same in the directions that tell relations apart
    "same_words",  # the blanked texts are equal
    "shared",  # share of all telling words that both have
    "shared_of_query",
    "shared_of_edit",
    "denial",  # more words such as "not" than the edit's text has
    "exclusion",  # "apart from", "instead of"
    "falsehood",  # "wrong", "untrue"
    "kin",  # "the brother of", "museum": something beside the subject
    "longer_name",  # the subject's name goes on: "Ada Quill Museum"
    "owner",  # "Ada Quill's"
    "named_last",  # the last sentence names the subject
    "answer_said",  # the edit's answer stands in the query
    "same_question_word",
    "other_question_word",
    "when",  # one asks when, the other does not
    "how",
    "query_words",
    "edit_words",
    "more_names",  # capitals in the query beyond those of the edit's text
)
REMEDY = "`lte memory calibrate --fit --write FILE` makes one"
KEPT = 50_000  # blanked texts of edits whose vectors are held
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ScopeModel:
    """A calibrated logistic regression over `FEATURES`, in numbers alone.

    encoder    id of the encoder it was fitted with; with another one its features mean something else
    center, projection    (dim,) and (directions, dim): `relation_learned` is the cosine of what is left of two blanked
                          texts when the center is taken off and the rest is projected
    mean, scale, weights  one a feature
    platt      slope and offset that turn the regression's logit into a calibrated one
    threshold  the least probability at which the edit is in scope
    fitted     what it was fitted on and what was measured; read by people alone
    """

    encoder: str
    center: tuple[float, ...]
    projection: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float
    platt: tuple[float, float]
    threshold: float
    fitted: Mapping[str, Any] = field(default_factory=dict)

    def relation(self, q: Vectors, e: Vectors) -> Floats:
        """`relation_learned` of pairs of (n, dim) vectors: (n,), within -1 and 1."""
        center, directions = self._matrices
        a, b = ((v.astype(np.float64) - center) @ directions.T for v in (q, e))
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))

    @cached_property
    def _matrices(self) -> tuple[Floats, Floats]:
        return np.array(self.center), np.array(self.projection).reshape(-1, len(self.center))

    def parts(self, features: Floats) -> Floats:
        """What each feature adds to the calibrated logit: (n, features)."""
        return (features - np.array(self.mean)) / np.array(self.scale) * np.array(self.weights) * self.platt[0]

    def probability(self, features: Floats) -> Floats:
        """The calibrated chance that the edit answers the query, for (n, features) rows."""
        logit = self.parts(features).sum(axis=1) + self.bias * self.platt[0] + self.platt[1]
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit, -700, 700))))

    def write(self, path: str | Path) -> None:
        """Write the model as JSON."""
        said = {"format": FORMAT, "features": list(FEATURES), **asdict(self)}
        Path(path).write_text(json.dumps(said) + "\n", encoding="utf-8")


def read_model(path: str | Path) -> ScopeModel:
    """The model of a file that `write` made, or a `MemoryFault` that says what is wrong with it."""
    try:
        said = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise MemoryFault(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from error
    except ValueError as error:
        raise MemoryFault(f"{path}: no scope check ({error}); {REMEDY}") from error
    return _model(path, said)


def shipped() -> ScopeModel:
    """The model that comes with this version."""
    text = files(__package__).joinpath("scope.json").read_text(encoding="utf-8")
    return _model("scope.json", json.loads(text))


@dataclass(frozen=True)
class Verdict:
    """What a check says of one edit and one query.

    why  what each feature added to the decision (logit), where the check can tell
    """

    check: str
    probability: float
    threshold: float
    why: tuple[tuple[str, float], ...] = ()

    @property
    def passes(self) -> bool:
        """Whether the edit stays in play."""
        return self.probability >= self.threshold

    def top(self, count: int = 3) -> tuple[tuple[str, float], ...]:
        """The features that spoke most for the verdict."""
        sign = 1.0 if self.passes else -1.0
        return tuple(sorted(self.why, key=lambda pair: -sign * pair[1])[:count])


class Check(Protocol):
    """A second look at what stage 1 lets through."""

    def verdicts(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> list[list[Verdict | None]]:
        """A verdict of each hit of each query; None where the check has nothing to say of such a hit."""


class ScopeCheck:
    """The learned check on a memory's encoder.

    It judges edits whose subject the query mentions: of the others stage 1 asks for nearly the same words. A query
    costs one text more to encode for each name that it mentions; the texts of edits are encoded once and held.
    """

    def __init__(self, model: ScopeModel, encoder: Encoder) -> None:
        self.model, self.encoder = model, encoder
        self._known: dict[str, Vectors] = {}
        self._lock = threading.Lock()

    def verdicts(self, queries: Sequence[str], hits: Sequence[Sequence[Hit]]) -> list[list[Verdict | None]]:
        """A verdict of each hit that the query mentions, None of each other."""
        pairs = [(query, hit) for query, of_query in zip(queries, hits) for hit in of_query if hit.mentioned]
        if not pairs:
            return [[None] * len(of_query) for of_query in hits]
        judged = iter(self.judge([(query, hit.entry) for query, hit in pairs]))
        return [[next(judged) if hit.mentioned else None for hit in of_query] for of_query in hits]

    def judge(self, pairs: Sequence[tuple[str, Entry]]) -> list[Verdict]:
        """The verdict of each query and edit; of an edit's prompt and keys the one that fits best counts."""
        features, first = self.features(pairs)
        probability, parts = self.model.probability(features), self.model.parts(features)
        found = []
        for start, end in zip(first, [*first[1:], len(features)]):
            best = start + int(np.argmax(probability[start:end]))
            why = tuple((name, float(part)) for name, part in zip(FEATURES, parts[best]))
            found.append(Verdict("scope", float(probability[best]), self.model.threshold, why))
        return found

    def features(self, pairs: Sequence[tuple[str, Entry]]) -> tuple[Floats, list[int]]:
        """(n, features), a row for each view of each pair's edit, and where each pair's rows begin."""
        rows: list[tuple[Side, Side, Entry]] = []
        first = []
        for query, entry in pairs:
            asked = side(query, entry.names)
            first.append(len(rows))
            rows += [(asked, side(text, entry.names), entry) for text in (entry.edit.prompt, *entry.keys)]
        q = self._encoded([asked.blanked for asked, *_ in rows], keep=False)
        e = self._encoded([view.blanked for _, view, _ in rows], keep=True)
        relation = self.model.relation(q, e)
        cosine = (q * e).sum(axis=1)
        table = [
            feature_row(asked, view, entry.edit.target_new, float(c), float(r))
            for (asked, view, entry), c, r in zip(rows, cosine, relation)
        ]
        return np.array(table, np.float64).reshape(len(rows), len(FEATURES)), first

    def _encoded(self, texts: Sequence[str], keep: bool) -> Vectors:
        with self._lock:
            known = {text: self._known[text] for text in set(texts) if text in self._known}
        if missing := [text for text in dict.fromkeys(texts) if text not in known]:
            new = dict(zip(missing, checked_vectors(self.encoder, missing)))
            known |= new
            with self._lock:
                if keep:
                    self._known |= new
                for text in list(self._known)[: max(0, len(self._known) - KEPT)]:
                    del self._known[text]
        return np.stack([known[text] for text in texts])


def feature_row(asked: Side, view: Side, answer: str, cosine: float, learned: float) -> list[float]:
    """One row of features, in the order of `FEATURES`; each finite for any text."""
    mine, its = content(asked), content(view)
    both, said = len(mine & its), side(answer, ()).rest
    return [
        cosine,
        learned,
        float(asked.blanked == view.blanked),
        both / max(1, len(mine | its)),
        both / max(1, len(mine)),
        both / max(1, len(its)),
        *(float(min(2, max(0, asked.has(cues) - view.has(cues)))) for cues in (DENY, AMONG)),
        float(min(2, sum(word in FALSE for word in asked.all))),
        float(asked.has(KIN) > view.has(KIN)),
        float(asked.longer and not view.longer),
        float(asked.owner),
        float(asked.named),
        float(bool(said) and set(said) <= set(asked.rest)),
        float(asked.asks == view.asks != ""),
        float(bool(asked.asks and view.asks) and asked.asks != view.asks),
        float((asked.asks == "when") != (view.asks == "when")),
        float((asked.asks == "how") != (view.asks == "how")),
        math.log1p(len(asked.rest)),
        math.log1p(len(view.rest)),
        float(min(5, max(0, asked.names - view.names))),
    ]


def _model(path: str | Path, said: Any) -> ScopeModel:
    def fault(why: str) -> MemoryFault:
        return MemoryFault(f"{path}: {why}; {REMEDY}")

    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise fault(f"no scope check of the format {FORMAT}")
    if said.get("features") != list(FEATURES):
        raise fault("its features are those of another version of lte")
    try:
        made = {name: tuple(map(float, said[name])) for name in ("center", "mean", "scale", "weights", "platt")}
        projection = tuple(tuple(map(float, row)) for row in said["projection"])
        numbers = {name: float(said[name]) for name in ("bias", "threshold")}
        fitted = dict(said.get("fitted") or {})
        model = ScopeModel(str(said["encoder"]), projection=projection, fitted=fitted, **made, **numbers)  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError) as error:
        raise fault(f"{error.args[0] if error.args else error}: missing or no number") from error
    sizes = [len(model.mean), len(model.scale), len(model.weights), len(model.platt)]
    if sizes != [len(FEATURES)] * 3 + [2] or any(len(row) != len(model.center) for row in projection) or not projection:
        raise fault("its numbers are too many or too few")
    flat = [*numbers.values(), *(v for row in (*made.values(), *projection) for v in row)]
    if not all(map(math.isfinite, flat)) or min(model.scale) <= 0:
        raise fault("a number is not finite, or a scale is not above 0")
    return model
