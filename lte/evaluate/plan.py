"""What a run consists of: units of (editor, benchmark, protocol, seed, shard), and the sequences of edits in each."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from lte.evaluate.config import EvaluateConfig, EvaluateError

PLAIN = "none"  # the unedited model, a row like any other
FINAL, IMMEDIATE = "final", "immediate"


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` parts of a run, counted from 0."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str) -> Shard:
        """The shard that "i/n" names."""
        index, slash, count = text.partition("/")
        if not slash or not index.isdigit() or not count.isdigit() or not 0 <= int(index) < int(count):
            raise EvaluateError(f"shard {text!r}: wanted i/n with i from 0 to n-1, e.g. 0/4, 1/4, 2/4 and 3/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Shard()


@dataclass(frozen=True)
class Unit:
    """What is scheduled, journalled and resumed: one editor on one benchmark under one protocol in one order."""

    editor: str
    benchmark: str
    protocol: str
    seed: int = 0
    shard: Shard = WHOLE
    turn: int = field(default=0, compare=False)  # of the shard that its first sequence falls to

    @property
    def task(self) -> str:
        """The name under which its results are pooled over seeds and shards."""
        return f"{self.benchmark}_{self.editor}_{self.protocol.replace(':', '-')}"

    @property
    def id(self) -> str:
        """Its name in the journal, the same for every shard: each has sequences of its own."""
        return f"{self.task}_seed{self.seed}"


@dataclass(frozen=True)
class Chain:
    """Edits that come into force step by step and are taken back together: doc ids of each step's cases."""

    index: int
    steps: tuple[tuple[int, ...], ...]

    @property
    def docs(self) -> tuple[int, ...]:
        """All of its cases in order."""
        return tuple(doc for step in self.steps for doc in step)


@dataclass(frozen=True)
class Point:
    """When questions are asked: after `step` (from 0), about `docs`; `name`: "final", "immediate", or a count."""

    name: str
    step: int
    docs: tuple[int, ...]


def units_of(config: EvaluateConfig, shards: Sequence[Shard] = (WHOLE,)) -> list[Unit]:
    """Every unit of a run, benchmark by benchmark, so that what is known of a benchmark is used while it is at hand."""
    names = [b.name for b in config.benchmarks]
    seeds = dict.fromkeys(config.seeds)
    wanted = [
        (editor, name, protocol, seed)
        for name, protocol, seed, editor in product(names, config.protocols, seeds, config.editors)
        if protocol in config.editor_protocols.get(editor, config.protocols)
    ]
    # units take turns, so that those of one sequence do not all fall to the first shard
    return [Unit(*which, shard, turn) for turn, which in enumerate(wanted) for shard in shards]


def steps_of(protocol: str, cases: int, portion: int | None = None) -> Iterator[list[range]]:
    """The sequences of a protocol over `cases` positions, each a list of steps; an N beyond the cases means all.

    portion  where no edit is made, protocols do not differ: so many cases are asked at a time
    """
    kind, _, size = protocol.partition(":")
    if portion:
        batch, steps = portion, 1
    elif kind == "single":
        batch, steps = 1, 1
    elif kind == "batch":
        batch, steps = _number(size, cases), 1
    elif kind == "sequential":
        batch, steps = 1, _number(size, cases)
    else:
        each, _, times = size.partition("x")
        batch = int(each)
        steps = _number(times, -(-cases // batch))
    for start in range(0, cases, batch * steps):
        stop = min(start + batch * steps, cases)
        yield [range(at, min(at + batch, stop)) for at in range(start, stop, batch)]


def _number(text: str, every: int) -> int:
    return max(1, every) if text == "all" else int(text)


def order_of(cases: int, seed: int) -> list[int]:
    """The order of the cases under a seed; 0 is the file's own."""
    docs = list(range(cases))
    if seed:
        random.Random(f"order/{seed}").shuffle(docs)
    return docs


def sequences_of(unit: Unit, cases: int, portion: int | None) -> list[Chain]:
    """The sequences that fall to the unit's shard: whole ones, in turn, because a part of one is another experiment.

    portion  of a unit without edits, so many cases are asked at a time
    """
    docs = order_of(cases, unit.seed)
    found = [
        Chain(i, tuple(tuple(docs[at] for at in step) for step in steps))
        for i, steps in enumerate(steps_of(unit.protocol, cases, portion))
    ]
    return [s for s in found if (s.index + unit.turn) % unit.shard.count == unit.shard.index]


def points_of(sequence: Chain, config: EvaluateConfig) -> list[Point]:
    """When a sequence's questions are asked; one of a single step has only its end."""
    last = len(sequence.steps) - 1
    points = []
    done: list[int] = []
    for at, step in enumerate(sequence.steps):
        before, done = len(done), [*done, *step]
        if at == last:
            break
        if config.immediate:
            points.append(Point(IMMEDIATE, at, step))
        if config.every and len(done) // config.every > before // config.every:
            points.append(Point(str(len(done)), at, _spread(done, config.point_cases)))
    if last and config.immediate:
        points.append(Point(IMMEDIATE, last, sequence.steps[last]))
    return [*points, Point(FINAL, last, sequence.docs)]


def _spread(docs: Sequence[int], most: int | None) -> tuple[int, ...]:
    """At most `most` of them, evenly from the oldest to the newest."""
    if most is None or len(docs) <= most:
        return tuple(docs)
    return tuple(docs[(2 * i + 1) * len(docs) // (2 * most)] for i in range(most))
