"""The questions that belong to an edit: asked with it in force and without, and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lte.memory.record import EditTest

Ask = Callable[[str, bool], str]  # a question, and whether the edit is in force -> what is answered
REGEX_SECONDS = 0.5  # an expression may backtrack for ever
SHOWN = 500  # characters of an answer that are kept


@dataclass(frozen=True)
class Outcome:
    """What came of one test.

    passes   how many of its `test.repeat` answers were as wanted
    answers  what was answered, each wording once, cut to `SHOWN` characters
    base     what is answered without the edit, where the test is about that
    why      what is wrong; empty where it passed
    """

    test: EditTest
    passes: int
    answers: tuple[str, ...]
    base: str | None = None
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether enough answers were as wanted."""
        return self.passes >= (self.test.min_pass or self.test.repeat)


def run_tests(tests: Sequence[EditTest], ask: Ask) -> list[Outcome]:
    """What comes of each test; whatever `ask` raises is raised: an answer that is not there is no failed test."""
    return [_run(test, ask) for test in tests]


def answers_of(tests: Sequence[EditTest]) -> int:
    """How many answers tests take."""
    return sum(test.repeat + (test.must == "not_change") for test in tests)


def fits(test: EditTest, answer: str, base: str | None = None) -> bool:
    """Whether one answer is as the test wants it; `base`: what is answered without the edit.

    Case, the width of blanks and outer marks do not count, but for regular expressions. Raises `TimeoutError` for an
    expression that takes too long.
    """
    if test.must == "not_change":
        return base is not None and normalised(answer) == normalised(base)
    if test.match == "regex":
        import regex  # re cannot be stopped

        return regex.search(test.value, answer, timeout=REGEX_SECONDS) is not None
    said, wanted = normalised(answer), normalised(test.value)
    if test.match == "equals":
        return said == wanted
    return (wanted in said) is (test.match == "contains")


def normalised(text: str) -> str:
    """An answer as it is compared: without case, outer marks and the width of its blanks."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")


def _run(test: EditTest, ask: Ask) -> Outcome:
    base = ask(test.prompt, False) if test.must == "not_change" else None
    answers = [ask(test.prompt, True) for _ in range(test.repeat)]
    why = ""
    try:
        passes = sum(fits(test, answer, base) for answer in answers)
    except Exception as error:  # of another package: TimeoutError, or an expression that it reads otherwise than re
        passes, why = 0, f"the regular expression failed: {error}"
    kept = tuple(dict.fromkeys(answer[:SHOWN] for answer in answers))
    outcome = Outcome(test, passes, kept, None if base is None else base[:SHOWN], why)
    if outcome.passed or why:
        return outcome
    said = kept[0] if len(kept) == 1 else f"{len(kept)} different answers"
    wanted = f"{test.match} {test.value!r}" if base is None else f"as without the edit, {base[:80]!r}"
    of = f" ({passes} of {test.repeat} times, wanted {test.min_pass or test.repeat})" if test.repeat > 1 else ""
    return Outcome(test, passes, kept, outcome.base, f"answered {said[:80]!r}; wanted {wanted}{of}")
