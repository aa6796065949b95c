"""Where units are worked on: a model, its editors, the cases; a unit becomes records for the journal, one by one."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lte.config import Config
from lte.edits import Case, row_of
from lte.evaluate.baseline import SHAPING, Baseline
from lte.evaluate.benchmarks import file_hash, find, load_cases
from lte.evaluate.config import EvaluateConfig, EvaluateError
from lte.evaluate.journal import Key
from lte.evaluate.plan import PLAIN, Chain, Unit, sequences_of
from lte.evaluate.proof import Proof

if TYPE_CHECKING:
    from lte.editors.base import Editor
    from lte.models import LM

log = logging.getLogger(__name__)
EXTERNAL = "external"  # a model that was edited elsewhere
Made = Callable[[str, Any], "Editor"]  # an editor from its name and settings
Loaded = Callable[..., "LM"]  # a model from its name, device, dtype and adapter


@dataclass(frozen=True)
class Supplies:
    """What the evaluator is given, because it imports no editor and no pocket model: all of it can be pickled.

    make       builds an editor from its name and settings
    load       loads a model
    bundled    benchmark -> file of the records that come with lte
    knowledge  cases the pocket model knows, by their number, a seed, and the cases whose subjects are left out
    """

    make: Made
    load: Loaded
    bundled: Mapping[str, Path] = field(default_factory=dict)
    knowledge: Callable[[int, int, Iterable[Case]], Sequence[Case]] | None = None


@dataclass
class Site:
    """A model, its editors and the cases, in one process."""

    lm: LM
    editors: Mapping[str, Editor | None]
    cases: Mapping[str, Sequence[Case]]
    config: EvaluateConfig
    supplies: Supplies | None = None
    files: Mapping[str, str] = field(default_factory=dict)  # benchmark -> hash of its file

    def __post_init__(self) -> None:
        for name, cases in self.cases.items():
            if not cases:
                raise EvaluateError(f"benchmark {name!r}: no cases; wanted at least one")
        self.proof = Proof.of(self.lm)
        # what answers behind a server has no hash: what it said unedited holds for this run alone
        self.identity = self.proof.weights or f"{self.lm.name} at {self.config.endpoint}"
        own = (
            self.config
            if self.proof.weights
            else self.config.model_copy(update={"cache": self.config.cache or self.config.output / "answers"})
        )
        self.baselines = {name: Baseline(self.lm, cases, own, self.identity) for name, cases in self.cases.items()}
        self._seeded: dict[tuple[str, int], Editor | None] = {}
        self._external: LM | None = None
        self._ability: dict[str, float] | None = None
        if EXTERNAL in self.editors and self.config.endpoint and not self.config.endpoint.base:
            raise EvaluateError(
                "external: behind a server, the unedited model has a name of its own; set endpoint.base to it, or "
                "nothing can be said of what the edits left alone"
            )

    @classmethod
    def open(cls, config: EvaluateConfig, supplies: Supplies, lm: LM | None = None) -> Site:
        """Load the model and the benchmarks and make the editors that the settings name."""
        files = {b.name: find(b, config.data, config.download, supplies.bundled) for b in config.benchmarks}
        cases = {
            b.name: load_cases(b.name, files[b.name], b.limit or config.limit, config.shuffle, config.seed)
            for b in config.benchmarks
        }
        editors = build_editors(config, supplies.make)
        if lm is None and config.endpoint:
            from lte.evaluate.endpoint import Endpoint

            lm = Endpoint(config.endpoint)  # type: ignore[assignment]
        elif lm is None:
            lm = supplies.load(config.model, config.device, config.dtype, config.adapter)
        assert lm is not None
        return cls(lm, editors, cases, config, supplies, {name: file_hash(path) for name, path in files.items()})

    def chains(self, unit: Unit) -> list[Chain]:
        """The sequences of edits of a unit."""
        whole = unit.editor in (PLAIN, EXTERNAL)  # no edit is made: protocols do not differ
        cases = len(self.cases[unit.benchmark])
        cases = min(cases, self.config.protocol_cases.get(unit.protocol, cases))
        return sequences_of(unit, cases, self.config.batch_size if whole else None)

    def editor(self, unit: Unit) -> Editor | None:
        """The unit's editor; a seed goes to one that draws."""
        made = self.editors[unit.editor]
        config = getattr(made, "config", None)
        if not unit.seed or not isinstance(config, Config) or "seed" not in type(config).model_fields:
            return made
        if self.supplies is None:
            raise EvaluateError(f"{unit.editor}: several seeds need `supplies`, to make the editor anew for each")
        key = unit.editor, unit.seed
        if key not in self._seeded:
            self._seeded[key] = self.supplies.make(unit.editor, config.model_copy(update={"seed": unit.seed}))
        return self._seeded[key]

    def subject(self, unit: Unit) -> LM:
        """The model that a unit asks: this site's, or for "external" the one that was edited elsewhere."""
        if unit.editor != EXTERNAL or self.config.endpoint:
            return self.lm
        if self._external is None:
            settings = self.config.editor_settings.get(EXTERNAL)
            if not isinstance(settings, dict) or "model" not in settings or self.supplies is None:
                raise EvaluateError(
                    f"external: no model named (settings: {settings!r}); name the folder or hub id of the edited "
                    "model, e.g. --set editor_settings.external.model=DIR"
                )
            more = {k: v for k, v in settings.items() if k == "adapter"}
            self._external = self.supplies.load(settings["model"], self.config.device, self.config.dtype, **more)
        return self._external

    def weights(self, unit: Unit) -> str | None:
        """The hash of the weights that a unit without edits asks; `None` behind a server."""
        lm = self.subject(unit)
        return self.proof.weights if lm is self.lm else lm.weight_hash()

    def ability(self, lm: LM | None = None) -> dict[str, float]:
        """What else the model can do as it is now; without `lm`, the unedited one, measured once and kept."""
        from lte.evaluate.ability import measure

        config = self.config.ability
        assert config is not None
        if lm is None and self._ability is not None:
            return self._ability
        known = self.supplies.knowledge if self.supplies and self.config.model == "pocket" else None
        edited = [case for cases in self.cases.values() for case in cases]
        facts = known(config.facts, self.config.seed, edited) if known and not config.knowledge else ()
        if lm is not None:
            return measure(lm, config, facts, self.config.seed)
        unedited: AbstractContextManager[Any] = getattr(self.lm, "unedited", nullcontext)()
        with unedited:
            self._ability = measure(self.lm, config, facts, self.config.seed)
        return self._ability

    def about(self, unit: Unit, chain: Chain) -> str:
        """A hash of whatever could change the answers of a chain."""
        cases = self.cases[unit.benchmark]
        asked = self.config.model_dump(mode="json", include={*SHAPING, "immediate", "every", "point_cases"})
        told = [
            [unit.editor, unit.benchmark, unit.protocol, unit.seed],
            [settings_of(self.editors[unit.editor]), self.identity, asked],
            [(doc, row_of(cases[doc])) for doc in chain.docs],
            [len(step) for step in chain.steps],
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:16]

    def work(self, unit: Unit, done: Mapping[Key, Any]) -> Iterator[tuple[Key, Any]]:
        """The records of a unit that are not `done`, each as soon as it is there; "drop" asks to forget a chain."""
        from lte.evaluate.work import Worker

        yield from Worker(self, unit).run(done)


def build_editors(config: EvaluateConfig, make: Made) -> dict[str, Editor | None]:
    """The editors that the settings name; "none" is the unedited model and "external" one edited elsewhere.

    Settings of an editor that is not asked are left alone: a run of some editors takes the file of all of them.
    """
    return {n: None if n in (PLAIN, EXTERNAL) else make(n, config.editor_settings.get(n)) for n in config.editors}


def settings_of(editor: Editor | None) -> Any:
    """The editor's settings as JSON, where it keeps them in `config`."""
    config = getattr(editor, "config", None)
    return config.model_dump(mode="json") if isinstance(config, Config) else None
