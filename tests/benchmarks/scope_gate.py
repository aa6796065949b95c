"""What the scope gate does on CounterFact subjects that nothing was fitted on: each stage alone, together, and top-k.

    cd tests/benchmarks && PYTHONPATH=../.. python scope_gate.py counterfact_edit.json --edits 300

The edits are records of counterfact_edit.json, all in memory at once; none of their subjects is in the pocket model's
alignment cases, of which the shipped check was made. Paraphrases are the records' own, as published and without the
sentences in front; neighbours are the records' own; the other kinds are made: another relation's prompt put to the
edit's subject, the prompt denied in words that were held out from fitting, a longer name around the subject's, and the
prompts of records whose subject is in no edit.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench_kit import about, write

from lte.edits import Edit
from lte.memory.encoder import SentenceTransformerEncoder
from lte.memory.gate import query_views
from lte.memory.memory import MemoryConfig
from lte.memory.scope import ScopeCheck, shipped
from lte.memory.scope_measure import apart, judged, shares, table
from lte.memory.scope_rows import ScopeRow
from lte.pocket import home
from lte.pocket.facts import load_facts, read_facts, relations, relations_like
from lte.pocket.scope import denied, wordings

RESULTS = Path(__file__).parent / "results" / "scope-gate.json"


def counterfact_rows(path: Path, edits: int, seed: int = 0) -> list[ScopeRow]:
    """The rows of `edits` records, drawn by chance among those whose relation is certain and subject not aligned on."""
    rng = random.Random(seed)
    records = json.loads(path.read_text(encoding="utf-8"))
    seen = {f.subject for f in load_facts(home() / "facts.tsv") if f.split == "align"}
    relation = {f.subject: f.relation for f in read_facts(path)}
    once = defaultdict(list)
    for record in records:
        once[record["subject"]].append(record)
    usable = [r for s, (r, *more) in once.items() if not more and s in relation and s not in seen and s in r["prompt"]]
    rng.shuffle(usable)
    chosen, rest = usable[:edits], usable[edits:]
    frames = defaultdict(list)
    for record in usable:
        frames[relation[record["subject"]]].append(record["prompt"].replace(record["subject"], "{s}", 1))
    rows = []
    for record in chosen:
        subject, new = record["subject"], record["target_new"]
        edit, of = Edit(record["prompt"], new, subject), relations()[relation[subject]]

        def add(query: str, inside: bool, kind: str, edit: Edit = edit, group: str = of.id) -> None:
            rows.append(ScopeRow(query, edit, inside, kind, "held_out", group))

        add(record["prompt"], True, "rewrite")
        add(record["rephrase_prompt"], True, "paraphrase")
        add(query_views(record["rephrase_prompt"])[-1], True, "paraphrase, no sentence in front")
        add(record["locality_prompt"], False, "same_relation")
        for other in rng.sample(relations_like(of), 3):
            if frames[other.id]:
                add(rng.choice(frames[other.id]).replace("{s}", subject), False, "same_subject")
        frame = record["prompt"].replace(subject, "{s}", 1)
        for word in wordings()["denials"]["held_out"]:
            add(denied(frame, word).replace("{s}", subject), False, "negation")
        way = rng.choice([w for w in wordings()["negated"]["held_out"] if "{not}" not in w])
        add(way.format(q=record["prompt"], o=new), False, "negation")
        near = rng.choice(wordings()["near"][of.about]["held_out"])
        add(frame.replace("{s}", near.format(s=subject)), False, "near_miss")
    names = [edit_subject["subject"] for edit_subject in chosen]
    others = [r for r in rest if not any(name in r["prompt"] for name in names)]
    owner = rows[0].edit
    for record in rng.sample(others, min(len(others), 1000 if edits >= 100 else 3 * edits)):
        rows.append(ScopeRow(record["prompt"], owner, False, "unrelated", "held_out"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("counterfact", type=Path, help="CounterFact in its reduced fields, as EasyEdit has it")
    parser.add_argument("--edits", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-k", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    chosen = parser.parse_args(arguments)
    rows, dropped = apart(counterfact_rows(chosen.counterfact, chosen.edits, chosen.seed))
    encoder = SentenceTransformerEncoder("offline")
    model, thresholds = shipped(), MemoryConfig().thresholds
    both = judged(encoder, ScopeCheck(model, encoder), rows)
    alone = judged(encoder, ScopeCheck(model, encoder), rows, alone=True)
    found = [
        *shares(both, thresholds, ("always", "stage 1", "both"), k=chosen.k),
        *shares(alone, thresholds, ("stage 2",), k=chosen.k),
    ]
    curve = [
        {"scope": at}
        | {one.kind: round(one.share, 4) for one in shares(both, thresholds, ("both",), k=chosen.k, threshold=at)}
        for at in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7)
    ]
    said = {
        **about(__file__, arguments),
        "edits": chosen.edits,
        "rows": len(rows),
        "dropped": dropped,
        "thresholds": {"named": thresholds.named, "mentioned": thresholds.mentioned, "scope": model.threshold},
        "figures": table(found),
        "both_by_scope_threshold": curve,
    }
    write(chosen.output, said)
    for one in found:
        print(f"{one.gate:9}{one.kind:36}{one.n:6}{one.share:8.1%} [{one.low:.1%}, {one.high:.1%}]", flush=True)


if __name__ == "__main__":
    main()
