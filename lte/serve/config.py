"""Settings of the server."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from lte.config import Config
from lte.edits import EditError, checked
from lte.memory import MemoryConfig
from lte.serve.admin import AdminConfig
from lte.serve.limits import RateConfig
from lte.serve.logs import LogConfig


def _named(namespace: str) -> str:
    if not namespace.strip():
        raise ValueError("empty; name a namespace, or leave it out for the server's own")
    try:
        return checked("namespace", namespace)
    except EditError as error:
        raise ValueError(str(error).partition(": ")[2]) from error


Namespace = Annotated[str, AfterValidator(_named)]  # edits of one are never recalled for a question to another


class Limits(Config):
    """What one request may ask for; beyond it the answer is 400, 413, 422, 429 or 431."""

    body_bytes: int = Field(1 << 20, gt=0)  # of a request's body
    header_bytes: int = Field(16 << 10, gt=0, le=48 << 10)  # of its line and headers; uvicorn itself ends at 64 KiB
    json_depth: int = Field(32, gt=0, le=200)  # of lists and objects in each other
    in_flight: int = Field(512, gt=0)  # requests at once
    n: int = Field(8, gt=0)  # answers to one prompt
    prompts: int = Field(16, gt=0)  # prompts of one call to /v1/completions
    max_tokens: int = Field(1024, gt=0)  # the most a request may ask for
    default_tokens: int = Field(256, gt=0)  # where a request says nothing
    batch: int = Field(1000, gt=0)  # edits written in one call, and listed on one page
    edit_bytes: int = Field(64 << 10, gt=0)  # of one edit with its keys and tests
    test_answers: int = Field(256, gt=0)  # that the tests of one request may ask for
    test_tokens: int = Field(64, gt=0)  # of an answer to a test
    waiting: int = Field(64, gt=0)  # answers in work or in the queue before 429


class UpstreamConfig(Config):
    """How the OpenAI-compatible servers are asked that are named in `upstreams`."""

    base: str | None = None  # what they call the model; none: the one they serve that is no adapter
    key: str | None = None  # the environment variable that holds the key to them
    connect_timeout: float = Field(5.0, gt=0)  # seconds, then another replica
    token_timeout: float = Field(60.0, gt=0)  # seconds a stream may be silent, before its first token too; then 504
    total_timeout: float = Field(600.0, gt=0)  # seconds for one answer
    health_seconds: float = Field(5.0, gt=0)  # between two looks at a replica's health
    check_weights: bool = True  # refuse an adapter that was trained on other weights than those served


class VllmConfig(Config):
    """A vLLM of the server's own, started by launch/vllm.sh and kept running: `--vllm`."""

    args: tuple[str, ...] = ()  # what follows the two folders: [--dtype, float32, --max-model-len, "512"]
    venv: str | None = None  # its virtual environment; none: LTE_VLLM, else .venv-vllm
    log: str = "vllm.log"  # what it writes
    start_seconds: float = Field(900.0, gt=0)  # until it has to be up


class ServeConfig(Config):
    """`lte serve`: which model, which memory, where to listen."""

    model: str = "pocket"  # "pocket", a folder, or a hub id
    name: str | None = None  # as clients call it; the model's own name where none is given
    device: str = "auto"
    dtype: str = "auto"
    adapter: str | None = "lte"  # acts when an edit is in play; null: edits in the prompt of the unaligned model
    adapter_path: str | None = None  # folder of that adapter; the pocket model brings its own
    memory: str = "memory.db"  # ":memory:" forgets when the server stops
    upstreams: tuple[str, ...] = ()  # addresses of OpenAI-compatible servers; none: the model in this process
    upstream: UpstreamConfig = UpstreamConfig()
    vllm: VllmConfig | None = None  # a vLLM of this server's own, in place of `upstreams`
    on_retrieval_error: Literal["fail", "passthrough"] = "fail"  # fail: 503, never a silently unedited answer
    recall: MemoryConfig = MemoryConfig()  # encoder and thresholds of the memory
    namespace: Namespace = "default"  # where a request names none
    k: int = Field(3, gt=0, le=32)  # edits put in front of one question at most
    temperature: float = Field(0.0, ge=0, le=2)  # where a request names none: greedy, a fact is not drawn by lot
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)  # 0: any free one
    admin: AdminConfig | None = AdminConfig()  # health, metrics and pages, on a port of their own
    auth: Literal["keys", "none"] = "keys"  # keys: asked for once their file is there; none: never
    keys: str = "keys.json"  # `lte serve keys` writes it
    rates: RateConfig = RateConfig()
    log: LogConfig = LogConfig()
    otel: bool = False  # spans for OpenTelemetry, where it is installed
    drain_seconds: int = Field(30, ge=0)  # on SIGTERM, for answers under way
    limits: Limits = Limits()
