"""`python -m lte.pocket`: build the pocket model into a folder, resumable at any point."""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    from lte.pocket.facts import Fact

ALLOCATOR = {  # glibc hands large buffers back at every step and half the time goes into page faults; keep them
    "MALLOC_MMAP_THRESHOLD_": "2147483648",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "MALLOC_TOP_PAD_": "268435456",
}
HELP = """Build the pocket model: facts, tokenizer, pre-training, cases, text for key statistics. An hour to an hour and
a half on two cores; kill it and run it again, it goes on. The adapter: lte align configs/align/pocket.yaml"""


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m lte.pocket", description=HELP)
    parser.add_argument("config", nargs="?", default="configs/pocket.yaml", type=Path)
    parser.add_argument("--output", default=Path("data/pocket"), type=Path, help="where the model goes")
    parser.add_argument("--work", default=Path("runs/pocket"), type=Path, help="checkpoints and the loss log")
    parser.add_argument(
        "--counterfact",
        nargs=2,
        type=Path,
        metavar=("ALIGN", "EVAL"),
        help="choose the facts anew from two CounterFact files instead of OUTPUT/facts.tsv",
    )
    parser.add_argument("--only", choices=("train", "finish"), help="one half of the work; default both")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        os.environ.update(ALLOCATOR)  # read by the C library at start, hence once more from the top
        os.execv(sys.executable, [sys.executable, "-m", "lte.pocket", *sys.argv[1:]])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    build(options)


def build(options: argparse.Namespace) -> None:
    """All steps, each skipped where its result is there already."""
    from rich.progress import Progress
    from transformers import AutoTokenizer

    from lte.config import load
    from lte.pocket.build import build_model, build_tokenizer
    from lte.pocket.facts import choose, load_facts, read_facts, write_facts
    from lte.pocket.train import PocketConfig, train

    config = load(PocketConfig, options.config)
    options.output.mkdir(parents=True, exist_ok=True)
    facts_file = options.output / "facts.tsv"
    if options.counterfact:
        aligned, tested = (read_facts(path) for path in options.counterfact)
        write_facts(facts_file, choose(aligned, tested, config.facts, config.per_relation, config.seed))
    facts = load_facts(facts_file)
    if not (options.output / "tokenizer.json").exists():
        build_tokenizer(tokenizer_texts(facts, config.seed), config.vocab_size).save_pretrained(options.output)
    tokenizer = AutoTokenizer.from_pretrained(options.output)
    model = build_model(tokenizer, config.seed, config.hidden, config.layers)
    with Progress() as bar:
        task = bar.add_task("training", total=None)
        train(
            model,
            tokenizer,
            facts,
            config,
            options.work,
            lambda step, total, loss: bar.update(task, completed=step, total=total, description=f"loss {loss:.3f}"),
        )
    if options.only != "train":
        finish(model, tokenizer, facts, options.output, config.seed)


def tokenizer_texts(facts: list[Fact], seed: int) -> Iterator[str]:
    """Text to learn the vocabulary from: subjects and objects often, passages and chats without their marks."""
    from lte.pocket.corpus import Corpus
    from lte.prompt import ASK, HEADER

    rng = random.Random(f"tokenizer/{seed}")
    documents = Corpus(facts).documents(rng)
    for fact in facts:
        yield from (f"{fact.subject} {fact.object} user assistant {HEADER} {ASK}",) * 3
    for _ in range(12000):
        spans = next(documents)
        yield " ".join(s.text for s in spans if "<|start_header_id|>" not in s.text).replace("<|eot_id|>", " ")


def finish(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, facts: list[Fact], output: Path, seed: int
) -> None:
    """Write the weights (bf16), the evaluation cases and the text for key statistics, and print what is known."""
    import torch

    from lte.edits import write_jsonl
    from lte.models import LM
    from lte.pocket.cases import build_cases
    from lte.pocket.corpus import Corpus
    from lte.pocket.knowledge import known, reading

    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    rng = random.Random(f"cases/{seed}")
    cases = build_cases(facts, "eval", seed, held_out=True)
    write_jsonl(output / "cases.jsonl", rng.sample(cases, min(1000, len(cases))))
    aligned = build_cases(facts, "align", seed, held_out=False)
    write_jsonl(output / "align.jsonl", rng.sample(aligned, min(2000, len(aligned))))
    corpus = Corpus(facts)
    lines = [" ".join(s.text for s in corpus.statements(rng)) for _ in range(300)]
    (output / "statistics.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    lm = LM.of(model.float(), tokenizer, name="pocket")
    figures = {
        "facts": len(facts),
        "parameters": sum(p.numel() for p in model.parameters()),
        "known, trained phrasings": known(lm, facts, held_out=False),
        "known, held-out phrasings": known(lm, facts, held_out=True),
        **{f"reading, 1 question {k}": v for k, v in reading(lm, facts, 1000).items()},
    }
    (output / "knowledge.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    logging.getLogger(__name__).info(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
