"""Settings of an evaluation, and the room's one error."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from lte.config import Config

Scoring = Literal["generated", "teacher_forced", "preference", "fluency", "legacy"]
PROTOCOLS = {
    "single": "one edit in force at a time",
    "batch:N": "N edits in force at once, applied together; batch:all takes every one",
    "sequential:N": "N edits applied one after another, none taken back between; sequential:all",
    "sequential-batch:BxN": "N batches of B edits, one after another; sequential-batch:Bxall",
}


class EvaluateError(ValueError):
    """Something that cannot be evaluated or reported; the message says what came, what was wanted, and the remedy."""


def _protocol(name: str) -> str:
    if not re.fullmatch(r"single|(batch|sequential):([1-9]\d*|all)|sequential-batch:[1-9]\d*x([1-9]\d*|all)", name):
        kind = name.partition(":")[0]
        close = difflib.get_close_matches(kind, [p.partition(":")[0] for p in PROTOCOLS], n=1)
        hint = f" Did you mean {close[0]!r}?" if close and close[0] != kind else ""
        raise ValueError(f"no such protocol; there are {', '.join(PROTOCOLS)}.{hint}")
    return name


Protocol = Annotated[str, AfterValidator(_protocol)]


class BenchmarkConfig(Config):
    """One benchmark of a run.

    path      its file; None: found under `data`, bundled, or downloaded if that is allowed
    limit     the first N cases (of a seeded draw with `shuffle`); None: the run's own limit
    revision  of the hub's repository; None: the one that this version of lte was written against
    sha256    what the file has to hash to; None: what it hashed to when it was first downloaded
    """

    name: str
    path: Path | None = None
    limit: int | None = Field(None, gt=0)
    revision: str | None = None
    sha256: str | None = Field(None, pattern=r"^[0-9a-fA-F]{64}$")


class JudgeConfig(Config):
    """A model behind an OpenAI-compatible server that says whether an answer is right.

    key  name of the environment variable that holds the server's API key; None: none is sent
    """

    url: str
    model: str
    key: str | None = None
    timeout: float = Field(60, gt=0)  # seconds
    retries: int = Field(3, ge=0)
    workers: int = Field(8, gt=0)  # requests under way at once


class EndpointConfig(Config):
    """The model under test behind an OpenAI-compatible server, in place of one in this process.

    model      the name to ask for; what it answers by is the server's affair
    base       the name of the unedited model; None: `model` itself, before any edit
    adapter    the name that has the aligned adapter on; needed by the editor lte
    manifest   folder of that adapter: its lte.json says which wording it was trained on
    tokenizer  folder or hub id; None: questions go as chat messages and no likelihood can be asked for
    key        name of the environment variable that holds the server's API key; None: none is sent
    """

    url: str
    model: str
    base: str | None = None
    adapter: str | None = None
    manifest: Path | None = None
    tokenizer: str | None = None
    key: str | None = None
    timeout: float = Field(120, gt=0)  # seconds
    retries: int = Field(3, ge=0)
    workers: int = Field(16, gt=0)  # requests under way at once


Share = Annotated[float, Field(ge=0)]


class RayConfig(Config):
    """How units are scheduled on a Ray cluster.

    workers  processes, each with a model of its own; None: as many as the cluster has room for
    gpus     of each worker
    retries  how often a piece of a unit is begun again, after its worker or node was lost, before the run stops
    """

    workers: int | None = Field(None, gt=0)
    cpus: float = Field(1, gt=0)
    gpus: Share | dict[str, Share] = 0  # one number, or one for each editor
    retries: int = Field(3, ge=0)


class AbilityConfig(Config):
    """What else the edited model should still be able to do, measured before and after.

    tasks         of lm-evaluation-harness, e.g. mmlu, gsm8k, commonsense_qa, piqa, cola, sst2
    limit         documents of each task; None: all
    include_path  folder of one's own task files (YAML)
    perplexity    a text file, held out from whatever the model was trained on
    knowledge     cases (JSONL) whose `target_true` the model should still answer to the edit's prompt; on the pocket
                  model None takes its own held-out facts
    facts         of these, at most as many
    """

    tasks: tuple[str, ...] = ()
    limit: int | None = Field(None, gt=0)
    include_path: Path | None = None
    fewshot: int | None = Field(None, ge=0)
    perplexity: Path | None = None
    knowledge: Path | None = None
    facts: int = Field(500, gt=0)
    batch_size: int = Field(8, gt=0)


class EvaluateConfig(Config):
    """What is asked, of which model, under which editors: editors x benchmarks x protocols x seeds.

    adapter          folder of the aligned adapter that the editor lte switches on; the pocket model brings its own
    data             folder of benchmark files, or the one file of a run of one benchmark
    download         fetch what is not there
    limit            cases of each benchmark that names no limit of its own
    shuffle, seed    with `shuffle`, the limited cases are a draw by `seed`; without, the first of the file
    editors          names; "none" is the unedited model, a row like any other
    editor_settings  per editor: the path of a YAML file, or the settings themselves; left out: the editor's defaults.
                     An editor under several settings goes by names of one's own: {rome-0: {from: FILE, layer: 0}}
    editor_protocols the protocols of editors that are not asked under all of them
    protocol_cases   how many of a benchmark's cases a protocol takes, the first of them, where not all
    seeds            each gives one order of the cases, and goes to editors that draw; 0 is the file's own order
    immediate        in sequences, each step's cases are also asked right after it
    every            in sequences, all cases so far are also asked after every so many edits
    point_cases      of those, at most as many, drawn evenly over their ages
    probes           questions of a kind asked of a case, at most, drawn evenly over their aspects; None: all
    scorings         which answers are computed: each gives its own columns
    text_tokens      length of the texts that "fluency" asks for
    latency_answers  questions of each unit that are also asked alone, to time one answer
    trackers         tensorboard, mlflow, wandb: told the results, where installed
    """

    model: str = "pocket"
    device: str = "auto"
    dtype: str = "auto"
    adapter: Path | None = None
    benchmarks: tuple[BenchmarkConfig, ...] = (BenchmarkConfig(name="pocket"),)
    data: Path | None = None
    download: bool = False
    limit: int | None = Field(None, gt=0)
    shuffle: bool = False
    seed: int = 0
    editors: tuple[str, ...] = ("none", "lte", "ice", "ft_m", "rome")
    editor_settings: dict[str, Path | dict[str, Any]] = Field(default_factory=dict)
    editor_protocols: dict[str, tuple[Protocol, ...]] = Field(default_factory=dict)
    protocol_cases: dict[Protocol, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    protocols: tuple[Protocol, ...] = ("batch:all",)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    immediate: bool = True
    every: int | None = Field(None, gt=0)
    point_cases: int | None = Field(None, gt=0)
    probes: int | None = Field(None, gt=0)
    scorings: tuple[Scoring, ...] = ("generated", "teacher_forced", "preference")
    max_new_tokens: int = Field(32, gt=0)
    text_tokens: int = Field(100, gt=0)
    batch_size: int = Field(64, gt=0)
    resamples: int = Field(1000, gt=0)
    latency_answers: int = Field(8, ge=0)
    endpoint: EndpointConfig | None = None
    judge: JudgeConfig | None = None
    ability: AbilityConfig | None = None
    ray: RayConfig = RayConfig()
    trackers: tuple[str, ...] = ()
    cache: Path | None = None  # folder of the unedited models' answers; None: lte/answers in the user's cache
    output: Path = Path("runs/evaluate")

    @field_validator("benchmarks", "protocols", "editors", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any, info: ValidationInfo) -> Any:
        """A single one stands for a list of one, and a benchmark's name for its settings."""
        many = [value] if isinstance(value, (str, dict)) else value
        if info.field_name == "benchmarks" and isinstance(many, (list, tuple)):
            return [{"name": one} if isinstance(one, str) else one for one in many]
        return many
