"""The outcomes of edits' tests as a JUnit file, which CI servers read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from lte.memory.checks import Outcome
from lte.memory.fault import MemoryFault

UNFIT = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what XML cannot hold


def write_junit(path: str | Path, outcomes: Mapping[str, Sequence[Outcome]], errors: Mapping[str, str]) -> None:
    """Write a file with one case for each test of each edit, by id; `errors`: edits whose tests could not be run."""
    try:
        Path(path).write_text(junit(outcomes, errors), encoding="utf-8")
    except OSError as error:
        raise MemoryFault(f"{path}: cannot be written ({error.strerror}); name another file") from error


def junit(outcomes: Mapping[str, Sequence[Outcome]], errors: Mapping[str, str]) -> str:
    """The text of such a file."""
    ran = [outcome for some in outcomes.values() for outcome in some]
    failed = sum(not outcome.passed for outcome in ran)
    counts = {"tests": len(ran) + len(errors), "failures": failed, "errors": len(errors)}
    suite = ElementTree.Element("testsuite", {"name": "lte memory", **{name: str(n) for name, n in counts.items()}})
    for id, some in outcomes.items():
        for n, outcome in enumerate(some, 1):
            case = _case(suite, id, f"{n}. {outcome.test.prompt}")
            if not outcome.passed:
                told = _sub(case, "failure", outcome.why)
                told.text = UNFIT.sub("�", "\n".join(outcome.answers))
    for id, error in errors.items():
        _sub(_case(suite, id, "tests"), "error", error)
    whole = ElementTree.Element("testsuites")
    whole.append(suite)
    ElementTree.indent(whole, " ")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(whole, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, id: str, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=id, name=UNFIT.sub("�", name))


def _sub(case: ElementTree.Element, kind: str, message: str) -> ElementTree.Element:
    return ElementTree.SubElement(case, kind, message=UNFIT.sub("�", message))
