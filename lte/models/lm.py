"""A loaded model that answers, scores and streams, with whatever edits are in force."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lte.models.adapter import Adapter, read_adapter
from lte.models.decode import Ending, sample
from lte.models.greedy import decode_greedy
from lte.models.layout import Layout, ModelError, check_layout, out_in, resolve_layout
from lte.models.scoring import Score, score_texts
from lte.models.tokens import Encoded, encode

Message = Mapping[str, str]
Query = str | Sequence[Message]


@dataclass(frozen=True)
class Prompt:
    """What the model is really asked: the query as rewritten, the adapter that is on, the ids of the edits used."""

    query: str | tuple[Message, ...]
    adapter: str | None = None
    edits: tuple[str, ...] = ()


Route = Callable[[Sequence[str]], list[Prompt]]


@dataclass
class LM:
    """A causal language model, its tokenizer, where its parts are, and what stands between it and a query.

    `routes` are put there by editors that work in the prompt: the last one decides what a query becomes. `adapters`
    are LoRA adapters by name; none is on unless a prompt names it or `using` says so.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    name: str = ""
    chat: bool = False
    routes: list[Route] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)
    adapters: dict[str, Adapter] = field(default_factory=dict)
    on: str | None = field(default=None, init=False)
    packed: bool | None = field(default=None, init=False, repr=False)  # what `packing.packs` found out about the model
    kinds: frozenset[type] = field(default=frozenset(), init=False, repr=False)  # of the modules that were loaded
    _hooks: ExitStack = field(default_factory=ExitStack, init=False, repr=False)

    def __post_init__(self) -> None:
        self.kinds = frozenset(map(type, self.model.modules()))

    @classmethod
    def of(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout | None = None,
        name: str = "",
        chat: bool | None = None,
    ) -> LM:
        """Wrap a model that is already loaded; `chat=None` asks through the chat template where there is one."""
        if any(p.is_meta for p in model.parameters()):
            raise ModelError(f"{name or type(model).__name__}: weights were offloaded; load the model whole to edit it")
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if chat and not tokenizer.chat_template:
            raise ModelError(f"{name or type(model).__name__}: chat asked for, but the tokenizer has no chat template")
        chat = bool(tokenizer.chat_template) if chat is None else chat
        layout = check_layout(model, layout) if layout else resolve_layout(model)
        return cls(model.eval(), tokenizer, layout, name or type(model).__name__, chat)

    # --- where things are -------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the input embeddings lie; inputs go there."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.model.dtype

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def context(self) -> int | None:
        """Tokens the model can hold, prompt and answer together; `None` where its config names no bound."""
        return getattr(self.model.config.get_text_config(decoder=True), "max_position_embeddings", None)

    @property
    def pad_id(self) -> int:
        """The token that fills rows up."""
        return int(self.tokenizer.pad_token_id or 0)

    @cached_property
    def blocks(self) -> list[nn.Module]:
        """The decoder blocks in order."""
        depth = self.model.config.get_text_config(decoder=True).num_hidden_layers
        return [self.model.get_submodule(self.layout.block.format(i)) for i in range(depth)]

    def mlp_out_module(self, layer: int) -> nn.Module:
        """The module that ends the MLP of `layer`: its input is the key, its output the value."""
        if not 0 <= layer < len(self.blocks):
            raise ModelError(f"layer {layer}: {self.name} has layers 0 to {len(self.blocks) - 1}")
        return self.model.get_submodule(self.layout.mlp_out.format(layer))

    def mlp_out(self, layer: int) -> Tensor:
        """Its weight as an (out, in) view, whether the module is `Linear` or GPT-2's transposed `Conv1D`."""
        return out_in(self.mlp_out_module(layer))

    def weight_hash(self, instead: Mapping[str, Tensor] | None = None, dtype: torch.dtype | None = None) -> str:
        """SHA-256 over every parameter's name, shape, dtype and bytes: proof of which model answered.

        instead  bits in the place of some parameters' own: the hash of the model that would hold them
        dtype    of the model that would be hashed, had it been loaded so; None: as it is
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            parameter = (instead or {}).get(name, parameter).detach()
            parameter = parameter if dtype is None else parameter.to(dtype)
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            digest.update(parameter.reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    def has_weights(self, sha256: str) -> bool:
        """Whether a `weight_hash` is of these weights, in whatever dtype they were loaded then and are now."""
        dtypes = (None, torch.float32, torch.bfloat16, torch.float16)
        return any(self.weight_hash(dtype=dtype) == sha256 for dtype in dtypes)

    # --- adapters ---------------------------------------------------------------------------------------------------

    def load_adapter(self, folder: str | Path, name: str = "lte") -> dict[str, Any]:
        """Read a LoRA adapter under `name`, off; its manifest comes back."""
        self.adapters[name] = read_adapter(folder, self.model)
        return self.adapters[name].manifest

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Within: the named adapter acts and no other (`None`: none does). After: the one that was on before.

        Not for a generator to hold across its `yield`: what runs in between would be under the adapter too.
        """
        if adapter is not None and adapter not in self.adapters:
            raise ModelError(f"{self.name}: no adapter {adapter!r}; load_adapter was given {sorted(self.adapters)}")
        before = self.on
        self._switch(adapter)
        try:
            yield
        finally:
            self._switch(before)

    def _switch(self, adapter: str | None) -> None:
        if adapter != self.on:
            self._hooks.close()
            if adapter is not None:
                self._hooks.enter_context(self.adapters[adapter].on(self.model))
            self.on = adapter

    # --- asking -----------------------------------------------------------------------------------------------------

    def render(self, query: Query) -> str:
        """The text the model reads: the chat template with the assistant's turn opened, or the query as it is.

        Blanks at the end of a plain query are left out: they belong to the first token of the answer.
        """
        if not self.chat:
            return (query if isinstance(query, str) else "\n".join(m["content"] for m in query)).rstrip(" ")
        messages = [{"role": "user", "content": query}] if isinstance(query, str) else [dict(m) for m in query]
        return self._templated(messages, add_generation_prompt=True)

    def _templated(self, messages: Sequence[Message], add_generation_prompt: bool) -> str:
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    enable_thinking=False,  # Qwen3 would spend the answer's tokens on thoughts
                )
            )
        except TemplateError as error:
            roles = [m["role"] for m in messages]
            raise ModelError(f"{self.name}: its chat template refuses the roles {roles}: {error}") from error

    def count(self, query: Query, raw: bool = False) -> int:
        """Tokens of the query as `stream` would read it."""
        return len(self._encoded(query, raw).ids)

    def _encoded(self, query: Query, raw: bool) -> Encoded:
        [encoded] = encode(self.tokenizer, [self._text(query, raw)])
        return encoded

    def prompts(self, queries: Sequence[str]) -> list[Prompt]:
        """What the queries become on their way to the model; without a route, themselves, under what is on."""
        if not self.routes:
            return [Prompt(q, self.on) for q in queries]
        prompts = self.routes[-1](queries)
        if len(prompts) != len(queries):
            raise ModelError(f"a route made {len(prompts)} prompts of {len(queries)} queries; give one for each")
        return prompts

    def answer(self, queries: Sequence[str], max_new_tokens: int = 32, batch_size: int = 64) -> list[str]:
        """The greedy continuation of each query up to its natural stop, stripped."""
        answers = [""] * len(queries)
        for adapter, chosen, texts in self._by_adapter(self.prompts(queries)):
            encoded = [e.ids for e in encode(self.tokenizer, texts)]
            with self.using(adapter):
                replies = decode_greedy(self, encoded, max_new_tokens, batch_size)
            for i, reply in zip(chosen, replies, strict=True):
                answers[i] = reply
        return answers

    def score(
        self, queries: Sequence[str], targets: Sequence[str], batch_size: int = 64, raw: bool = False
    ) -> list[Score]:
        """How the model rates each target behind its query, from one forward pass over both.

        `raw=True` takes what the routes make of a query as the literal text to continue, without the chat template;
        the target stands behind one blank, or behind the blank that the text ends in.
        """
        if len(queries) != len(targets):
            raise ModelError(f"{len(queries)} queries but {len(targets)} targets; give one target for each query")
        scores: list[Score | None] = [None] * len(queries)
        for adapter, chosen, texts in self._by_adapter(self.prompts(queries), raw):
            encoded, spans = self.with_targets(texts, [targets[i] for i in chosen], raw)
            with self.using(adapter):
                scored = score_texts(self, encoded, spans, batch_size)
            for i, score in zip(chosen, scored, strict=True):
                scores[i] = score
        return [s for s in scores if s is not None]

    def stream(
        self,
        query: Query,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] = (),
        raw: bool = False,
        top_k: int = 0,
    ) -> Generator[str, None, Ending]:
        """Pieces of one answer as they are decoded; temperature 0 is greedy. No route acts: the server has its own.

        Sampling is among the `top_k` likeliest tokens (0: all), and of those among the likeliest that hold `top_p`.
        `raw=True` takes the query as the literal text to continue. The adapter that is on at the call acts to the end,
        and only while a piece is computed: streams may be interleaved. A model without a chat template runs on beyond
        the end of a line; `stop=["\\n"]` ends it there. The generator returns how the answer ended.
        """
        if top_k < 0:
            raise ModelError(f"top_k {top_k}; give a number of tokens to choose among, or 0 for all of them")
        ids = self._encoded(query, raw).ids
        return sample(self, ids, max_new_tokens, temperature, top_p, seed, stop, self.on, top_k)

    def with_targets(
        self, texts: Sequence[str], targets: Sequence[str], raw: bool = False
    ) -> tuple[list[Encoded], list[tuple[int, int]]]:
        """Rendered texts with their targets behind them, tokenised whole, and the tokens each target covers.

        One tokenisation of the full text: the pieces' own tokens may differ at the seam. Blanks around a target are
        not its own; what stands between it and the text is the model's habit, or one blank behind a `raw` text.
        """
        ends = []
        seam = " " if raw or not self.chat else self._seam
        for text, target in zip(texts, targets, strict=True):
            if not target.strip():
                raise ModelError(f"an empty target behind {text!r}; a target needs at least one token")
            there = (raw or not self.chat) and text[-1:].isspace()
            ends.append(("" if there else seam) + target.strip())
        encoded = encode(self.tokenizer, [t + e for t, e in zip(texts, ends, strict=True)])
        spans = [e.span(len(t), len(t) + len(end)) for t, end, e in zip(texts, ends, encoded, strict=True)]
        for t, end, e in zip(texts, ends, encoded, strict=True):  # a tokenizer may leave nothing but the blank
            e.span(len(t) + len(end) - len(end.lstrip()), len(t) + len(end))
        if not all(start for start, _ in spans):
            raise ModelError("a target without a token before it; give a prompt that is not empty")
        return encoded, spans

    @cached_property
    def _seam(self) -> str:
        """The blanks that the chat template puts before the words of an answer: " " behind Llama-2's "[/INST]"."""
        asked = [{"role": "user", "content": "q"}]
        before = self._templated(asked, add_generation_prompt=True)
        after = self._templated([*asked, {"role": "assistant", "content": "answer"}], add_generation_prompt=False)
        seam = after.removeprefix(before).partition("answer")[0]
        return seam if after.startswith(before) and not seam.strip() else ""

    def pad(self, rows: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
        """(ids, attention mask) of a batch, (rows, longest)."""
        longest = max(len(r) for r in rows)
        ids = torch.full((len(rows), longest), self.pad_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[i, at] = torch.tensor(row)
            mask[i, at] = 1
        return ids.to(self.device), mask.to(self.device)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _by_adapter(
        self, prompts: Sequence[Prompt], raw: bool = False
    ) -> Iterator[tuple[str | None, list[int], list[str]]]:
        for adapter in dict.fromkeys(p.adapter for p in prompts):
            chosen = [i for i, p in enumerate(prompts) if p.adapter == adapter]
            yield adapter, chosen, [self._text(prompts[i].query, raw) for i in chosen]

    def _text(self, query: Query, raw: bool) -> str:
        return query if raw and isinstance(query, str) else self.render(query)

    @contextmanager
    def logits_at(self, pick: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Within: the model's logits are those of the final hidden states that `pick` takes, (rows, tokens, hidden).

        Logits of every token of a batch are the largest tensor there is; and what some models do to logits behind the
        projection (soft caps, scales) stays the model's own affair.
        """
        hook = self.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (pick(args[0]),))
        try:
            yield
        finally:
            hook.remove()
