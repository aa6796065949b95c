"""The engine over HTTP: an OpenAI-compatible server answers, the base model or the adapter; edits go in the prompt."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import httpx

from lte.prompt import with_edits
from lte.serve import wire
from lte.serve.augment import augment
from lte.serve.config import ServeConfig
from lte.serve.errors import ServeError, bad_request
from lte.serve.question import Edits, Question, Reply, overloaded
from lte.serve.told import together
from lte.serve.upstream_body import members, rewritten, text_of_body
from lte.serve.upstream_call import Call, Caller, no_upstream
from lte.serve.upstream_models import Names, address, ask_models, check_adapter, names_of
from lte.serve.upstream_pool import KEEP, Pool, Replica
from lte.serve.upstream_stream import rename, renamed, whole_events

logger = logging.getLogger(__name__)


class UpstreamEngine:
    """Replicas of one model, asked over HTTP. `connect` makes one.

    A question without edits goes to the base model as the bytes that came in; one with edits, to the adapter, its last
    user turn rendered as the adapter was trained. Where the upstreams have no adapter, edits go to the base model.
    """

    kinds: tuple[type[wire.Asked], type[wire.Asked]] = (wire.AskedChat, wire.AskedText)

    def __init__(self, config: ServeConfig, names: Names, pool: Pool, headers: Mapping[str, str]) -> None:
        self.names, self.pool = names, pool
        self.caller = Caller(pool, config.upstream, headers)
        self._waiting, self._closing = config.limits.waiting, False
        self.open = 0  # questions that are being answered

    @classmethod
    def connect(cls, config: ServeConfig) -> UpstreamEngine:
        """The engine over `config.upstreams`, each asked for its models first.

        Raises `ServeError` where none is there, where they serve other models than each other, and for an adapter
        that was made for other words or other weights.
        """
        headers = _key(config.upstream.key)
        urls = [address(url) for url in config.upstreams]
        there = {url: ask_models(url, headers, config.upstream.connect_timeout) for url in urls}
        lists = {url: cards for url, cards in there.items() if cards is not None}
        if not lists:
            raise ServeError(f"upstreams: none of {', '.join(urls)} can be reached; start one, or mend the addresses")
        names = names_of(config, next(iter(lists.values())))
        for url, cards in lists.items():
            other = names_of(config, cards)
            if fault := names.missing(cards) or (other.adapter != names.adapter and "it has an adapter more"):
                raise ServeError(f"{url}: {fault}; every upstream has to serve the same models")
            check_adapter(config, names, cards, url)
        if names.adapter is None:
            logger.warning(
                "prompt-only mode: the upstream has %s; edits are put in the prompt of the unaligned model, which may "
                "not heed them, or heed them where it should not",
                "no adapter" if config.adapter is None else f"no adapter {config.adapter!r}",
            )
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEP)
        replicas = [
            Replica(url, f"upstream {i}", httpx.AsyncHTTPTransport(limits=limits, trust_env=False), url in lists)
            for i, url in enumerate(urls, 1)
        ]
        pool = Pool(replicas, headers, names.missing, config.upstream.health_seconds, config.upstream.connect_timeout)
        return cls(config, names, pool, headers)

    @property
    def name(self) -> str:
        """What clients call the model."""
        return self.names.public

    @property
    def adapters(self) -> Collection[str]:
        """The adapter, where the upstreams have it."""
        return {self.names.adapter} - {None}  # type: ignore[return-value]

    @property
    def prompt_only(self) -> bool:
        """Whether the upstreams have no adapter."""
        return self.names.adapter is None

    def accept(self, question: Question) -> None:
        """Return where edits could be put in front of the question, or none are wanted."""
        body = question.body
        off = body.model != self.names.public or (body.lte is not None and body.lte.edits == "off")
        if isinstance(body, wire.AskedText) and not off and _ids(body.prompt):
            raise bad_request(
                "prompt: edits cannot be looked up for token ids; send text, or ask for the model "
                f"{self.names.public + ':base'!r}",
                "prompt",
            )

    async def reply(self, question: Question, edits: Edits) -> Reply:
        """The answer with these edits in play; of a stream, the first event is there when this returns."""
        if self._closing:
            raise ServeError("the server is shutting down; ask again shortly", 503, code="shutting_down", retry_after=5)
        if self.open >= self._waiting:
            raise overloaded(self._waiting)
        self.pool.watch()
        edited = [bool(own) for own in edits]
        if any(edited) and not all(edited) and not self.prompt_only:
            return await self._mixed(question, edits)
        self.open += 1
        held = True

        async def release() -> None:
            nonlocal held
            if held:
                held = False
                self.open -= 1
                if call is not None:
                    await call.close()

        call: Call | None = None
        try:
            model = self._model(question, any(edited))
            call = await self.caller.post(question, self.body(question, edits, model))
            if call.events is None:
                content = rename(call.content, model, question.body.model) if any(edited) else call.content
                return Reply(content, None, call.status, call.headers)
            events = whole_events(call.events)
            passed = renamed(events, model, question.body.model) if any(edited) else events
            return Reply(b"", passed, call.status, call.headers, release)
        finally:
            if call is None or call.events is None:
                await release()

    def _model(self, question: Question, edited: bool) -> str:
        if edited and self.names.adapter:
            return self.names.adapter
        return self.names.base if question.body.model == self.names.public else self.names.off

    def body(self, question: Question, edits: Edits, model: str) -> bytes:
        """The bytes to send: the client's own where nothing has to be another."""
        changes = dict(question.changes)
        if model != question.body.model:
            changes["model"] = model
        if any(edits):
            sent = {m.name: m.value for m in members(text_of_body(question.raw))}
            if question.chat:
                changes["messages"] = augment(sent["messages"], [e.statement for e in edits[0]])
            else:
                said = [
                    with_edits([e.statement for e in own], q) for own, q in zip(edits, question.queries, strict=True)
                ]
                changes["prompt"] = said[0] if isinstance(sent["prompt"], str) else said
        return rewritten(question.raw, changes)

    async def _mixed(self, question: Question, edits: Edits) -> Reply:
        """Several prompts, edits for some: these to the adapter, the others to the base model, one answer of both."""
        if question.body.stream:
            raise bad_request(
                "prompt: edits concern some of the prompts and not others; stream them one by one", "prompt"
            )
        groups = [[i for i, own in enumerate(edits) if bool(own) is edited] for edited in (False, True)]
        prompts = question.queries
        replies: list[Reply] = await together(
            *(
                self.reply(question.changed(prompt=[prompts[i] for i in group]), [edits[i] for i in group])
                for group in groups
            )
        )
        return next((r for r in replies if r.status >= 400), None) or _merged(replies, groups, question.body.n or 1)

    async def check(self) -> None:
        """Return while a replica is up."""
        self.pool.watch()
        if not any(replica.up for replica in self.pool.replicas):
            raise no_upstream()

    async def close(self) -> None:
        """Take no more questions, and close the connections; answers under way were given their time before."""
        self._closing = True
        await self.pool.close()


def _ids(prompt: Any) -> bool:
    return not isinstance(prompt, str) and not all(isinstance(p, str) for p in prompt)


def _merged(replies: Sequence[Reply], groups: Sequence[Sequence[int]], n: int) -> Reply:
    """One text completion out of two: the choices in the order of their prompts, the usage summed."""
    answers = [json.loads(r.content) for r in replies]
    choices: list[Any] = []
    for answer, group in zip(answers, groups, strict=True):
        for choice in answer["choices"]:
            at, nth = divmod(choice["index"], n)
            choices.append({**choice, "index": group[at] * n + nth})
    merged = {**answers[0], "choices": sorted(choices, key=lambda c: int(c["index"]))}
    counts = [answer.get("usage") or {} for answer in answers]
    names = [name for name, value in counts[0].items() if isinstance(value, int)]
    merged["usage"] = {name: sum(c.get(name) or 0 for c in counts) for name in names}
    return replace(replies[0], content=json.dumps(merged, ensure_ascii=False).encode())


def _key(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable, "").strip()
    if not key or not (key.isascii() and key.isprintable()) or " " in key:
        raise ServeError(
            f"upstream.key: the environment variable {variable} holds no key; put the upstreams' key there"
        )
    return {"authorization": f"Bearer {key}"}
