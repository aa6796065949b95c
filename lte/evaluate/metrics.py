"""What an answer is worth: pure functions from recorded answers to numbers, each under a version id.

A sample holds its `probes`; a probe is a question as it was asked and what came back:

    kind      reliability | generalization | portability | locality | fluency, or `contested`: counts nowhere
    aspect    the benchmark's own name for the sort of question, or ""
    answers   the answers that count as right
    before    the unedited model's answer
    after     the answer with the edit in force
    targets   texts by their part: "forced" (the first accepted answer; of locality, the unedited model's own answer),
              "preferred" and "other" (the one is to be likelier than the other)
    scores    target -> {"logprob": mean log-probability a token, "match": share of its tokens that are the argmax}
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ProbeRow = Mapping[str, Any]
EDGE = frozenset(".,;:!?…\"'`*_-–—") | frozenset("‘’‚“”„«»‹›()[]{}<>。，、；：！？「」『』（）")
WORD = re.compile(r"\w+|[^\w\s]")
UNSPACED = "\u2e80"  # from here on, scripts mostly write words without blanks between them


def normalise(text: str) -> str:
    """`text` as it is compared: NFKC, case folded, blanks run together, no blanks or punctuation at either end.

    Only marks that end or quote a sentence are cut: "C#" and "C" stay two answers, "U.S." and "U.S" become one.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.split())
    start, end = 0, len(words)
    while start < end and (words[start] in EDGE or words[start].isspace()):
        start += 1
    while end > start and (words[end - 1] in EDGE or words[end - 1].isspace()):
        end -= 1
    return words[start:end] or words


def says(answer: str, golds: Iterable[str]) -> bool:
    """Whether the answer is one of the accepted ones, nothing less and nothing more."""
    said = normalise(answer)
    return any(said == normalise(gold) for gold in golds)


def contains(answer: str, golds: Iterable[str]) -> bool:
    """Whether an accepted answer stands in the answer as whole words."""
    said = normalise(answer)
    return any(_stands_in(said, normalise(gold)) for gold in golds)


def _stands_in(said: str, gold: str) -> bool:
    at = said.find(gold) if gold else -1
    while at >= 0:
        end = at + len(gold)
        if not _joined(said[at - 1 : at], gold[0]) and not _joined(gold[-1], said[end : end + 1]):
            return True
        at = said.find(gold, at + 1)
    return False


def _joined(left: str, right: str) -> bool:
    return bool(left and right) and all(c.isalnum() and c < UNSPACED for c in (left, right))


def ngram_entropy(text: str) -> float | None:
    """Fluency: how varied the words of a text are, in hundredths of a bit; low where a model repeats itself.

    (2/3 H2 + 4/3 H3) / 2 x 100, with Hn = -sum p log2 p over the relative frequencies p of the text's n-grams of
    words and punctuation marks. Only generated words count: the prompt is not part of the text. A text of fewer than
    three words has no trigram and no fluency (`None`).
    """
    words = WORD.findall(text)
    if len(words) < 3:
        return None
    return 100 * (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) + 0.0


def harmonic_mean(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where any value is 0."""
    return len(values) / sum(1 / v for v in values) if all(v > 0 for v in values) else 0.0


# --- one probe under one metric: a number, or None where the metric does not apply -----------------------------------


def _says(probe: ProbeRow) -> float | None:
    asked = probe.get("after") is not None and probe["answers"]
    return float(says(probe["after"], probe["answers"])) if asked else None


def _contains(probe: ProbeRow) -> float | None:
    asked = probe.get("after") is not None and probe["answers"]
    return float(contains(probe["after"], probe["answers"])) if asked else None


def _unchanged(probe: ProbeRow) -> float | None:
    return None if probe.get("after") is None else float(probe["after"] == probe["before"])


def _match(probe: ProbeRow) -> float | None:
    score = probe["scores"].get(probe["targets"].get("forced"))
    return None if score is None else float(score["match"])


def _prefers(probe: ProbeRow) -> float | None:
    preferred, other = (probe["scores"].get(probe["targets"].get(part)) for part in ("preferred", "other"))
    return None if preferred is None or other is None else float(preferred["logprob"] > other["logprob"])


def _fluency(probe: ProbeRow) -> float | None:
    return None if probe.get("after") is None else ngram_entropy(probe["after"])


@dataclass(frozen=True)
class Metric:
    """A figure: which probes it looks at, how one of them counts, what it means, and the version of its definition."""

    kind: str
    value: Callable[[ProbeRow], float | None]
    meaning: str
    version: int = 1


KINDS = {
    "reliability": "the edit's own prompt",
    "generalization": "rephrasings of the edit's prompt",
    "portability": "questions one hop on",
}
METRICS: dict[str, Metric] = {
    **{f"{k},generated": Metric(k, _says, f"{w}: the generated answer is an accepted one") for k, w in KINDS.items()},
    "locality,generated": Metric(
        "locality", _unchanged, "unrelated questions: the generated answer equals the unedited model's"
    ),
    **{
        f"{k},contains": Metric(k, _contains, f"{w}: the generated answer holds an accepted one")
        for k, w in KINDS.items()
    },
    **{
        f"{k},teacher_forced": Metric(
            k, _match, f"{w}: share of the first accepted answer's tokens that are the argmax"
        )
        for k, w in KINDS.items()
    },
    "locality,teacher_forced": Metric(
        "locality",
        _match,
        "unrelated questions: share of the unedited model's own answer's tokens still the argmax",
    ),
    "ES,preference": Metric("reliability", _prefers, "the edit's own prompt: target_new is likelier than target_true"),
    "PS,preference": Metric("generalization", _prefers, "rephrasings: target_new is likelier than target_true"),
    "NS,preference": Metric("locality", _prefers, "neighbours: their own answer is likelier than target_new"),
    "fluency,generated": Metric("fluency", _fluency, "variety of words in a longer text, in hundredths of a bit"),
}
HARMONIC = "S,preference"
HARMONIC_MEANING = "harmonic mean of ES, PS and NS"
HARMONIC_OF = ("ES,preference", "PS,preference", "NS,preference")
HARMONIC_VERSION = 1


def case_values(probes: Sequence[ProbeRow]) -> dict[str, float]:
    """Every metric of one case: the mean over the probes it looks at, also by aspect ("portability.Reasoning,...")."""
    found: defaultdict[str, list[float]] = defaultdict(list)
    for key, metric in METRICS.items():
        name, _, scoring = key.partition(",")
        for probe in probes:
            if probe["kind"] != metric.kind or (value := metric.value(probe)) is None:
                continue
            found[key].append(value)
            if probe["aspect"]:
                found[f"{name}.{probe['aspect']},{scoring}"].append(value)
    return {key: sum(values) / len(values) for key, values in found.items()}


def version_id(key: str) -> str:
    """The id of a metric's definition, e.g. "reliability,generated/1"; an aspect has its metric's."""
    if key == HARMONIC:
        return f"{HARMONIC}/{HARMONIC_VERSION}"
    name, _, scoring = key.partition(",")
    whole = f"{name.partition('.')[0]},{scoring}"
    return f"{whole}/{METRICS[whole].version}"
