"""A loaded model that answers, scores and streams, with whatever edits are in force."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lte.models.adapter import Adapter, read_adapter
from lte.models.decode import Ending, decode_greedy, sample
from lte.models.layout import Layout, ModelError, features, resolve_layout
from lte.models.tokens import Encoded, encode

Message = Mapping[str, str]
Query = str | Sequence[Message]


@dataclass(frozen=True)
class Prompt:
    """What the model is really asked: the query as rewritten, the adapter that is on, the ids of the edits used."""

    query: str | tuple[Message, ...]
    adapter: str | None = None
    edits: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """How a model rates a target: mean log-probability a token, share of tokens that are argmax, all of them argmax."""

    logprob: float
    match: float
    exact: bool
    tokens: int


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
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if chat and not tokenizer.chat_template:
            raise ModelError(f"{name or type(model).__name__}: chat asked for, but the tokenizer has no chat template")
        chat = bool(tokenizer.chat_template) if chat is None else chat
        return cls(model.eval(), tokenizer, layout or resolve_layout(model), name or type(model).__name__, chat)

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
        module = self.mlp_out_module(layer)
        weight: Tensor = module.weight.data
        shape = features(module)
        return weight if isinstance(module, nn.Linear) or shape is None else weight.t()

    def weight_hash(self) -> str:
        """SHA-256 over every parameter's name, shape, dtype and bytes: proof of which model answered."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.named_parameters()):
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            digest.update(parameter.detach().contiguous().view(torch.uint8).cpu().numpy().tobytes())
        return digest.hexdigest()

    # --- adapters ---------------------------------------------------------------------------------------------------

    def load_adapter(self, folder: str | Path, name: str = "lte") -> dict[str, Any]:
        """Read a LoRA adapter under `name`, off; its manifest comes back."""
        self.adapters[name] = read_adapter(folder, self.model)
        return self.adapters[name].manifest

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        """Within: the named adapter acts (`None`: none does)."""
        if adapter is None:
            yield
            return
        if adapter not in self.adapters:
            raise ModelError(f"{self.name}: no adapter {adapter!r}; load_adapter was given {sorted(self.adapters)}")
        with self.adapters[adapter].on(self.model):
            yield

    # --- asking -----------------------------------------------------------------------------------------------------

    def render(self, query: Query) -> str:
        """The text the model reads: the chat template with the assistant's turn opened, or the query as it is."""
        if not self.chat:
            return query if isinstance(query, str) else "\n".join(m["content"] for m in query)
        messages = [{"role": "user", "content": query}] if isinstance(query, str) else [dict(m) for m in query]
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def prompts(self, queries: Sequence[str]) -> list[Prompt]:
        """What the queries become on their way to the model; without a route, themselves."""
        return self.routes[-1](queries) if self.routes else [Prompt(q) for q in queries]

    def answer(self, queries: Sequence[str], max_new_tokens: int = 32, batch_size: int = 64) -> list[str]:
        """The greedy continuation of each query up to its natural stop, stripped."""
        answers = [""] * len(queries)
        for chosen, texts in self._by_adapter(self.prompts(queries)):
            encoded = [e.ids for e in encode(self.tokenizer, texts)]
            for i, reply in zip(chosen, decode_greedy(self, encoded, max_new_tokens, batch_size), strict=True):
                answers[i] = reply
        return answers

    def score(self, queries: Sequence[str], targets: Sequence[str], batch_size: int = 64) -> list[Score]:
        """How the model rates each target behind its query, from one forward pass over both."""
        if len(queries) != len(targets):
            raise ModelError(f"{len(queries)} queries but {len(targets)} targets; give one target for each query")
        scores: list[Score | None] = [None] * len(queries)
        for chosen, texts in self._by_adapter(self.prompts(queries)):
            encoded, spans = self.with_targets(texts, [targets[i] for i in chosen])
            for i, score in zip(chosen, self._score(encoded, spans, batch_size), strict=True):
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
    ) -> Generator[str, None, Ending]:
        """Pieces of one answer as they are decoded; temperature 0 is greedy. No route acts here: the server has its own.

        `raw=True` takes the query as the literal text to continue. The generator returns how the answer ended.
        """
        text = query if raw and isinstance(query, str) else self.render(query)
        [encoded] = encode(self.tokenizer, [text])
        return (yield from sample(self, encoded.ids, max_new_tokens, temperature, top_p, seed, stop))

    def with_targets(self, texts: Sequence[str], targets: Sequence[str]) -> tuple[list[Encoded], list[tuple[int, int]]]:
        """Rendered texts with their targets behind them, tokenised whole, and the tokens each target covers.

        One tokenisation of the full text: the pieces' own tokens may differ at the seam.
        """
        seams = ["" if self.chat or t[-1:].isspace() else " " for t in texts]
        encoded = encode(self.tokenizer, [t + s + y for t, s, y in zip(texts, seams, targets, strict=True)])
        spans = []
        for text, seam, target, e in zip(texts, seams, targets, encoded, strict=True):
            if not target.strip():
                raise ModelError(f"an empty target behind {text!r}; a target needs at least one token")
            spans.append(e.span(len(text), len(text) + len(seam) + len(target)))
        return encoded, spans

    def pad(self, rows: Sequence[Sequence[int]], side: str = "right") -> tuple[Tensor, Tensor]:
        """(ids, attention mask) of a batch, (rows, longest)."""
        longest = max(len(r) for r in rows)
        ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id or 0))
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            at = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
            ids[i, at] = torch.tensor(row)
            mask[i, at] = 1
        return ids.to(self.device), mask.to(self.device)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _by_adapter(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], list[str]]]:
        for adapter in dict.fromkeys(p.adapter for p in prompts):
            chosen = [i for i, p in enumerate(prompts) if p.adapter == adapter]
            with self.using(adapter):
                yield chosen, [self.render(prompts[i].query) for i in chosen]

    @torch.inference_mode()
    def _score(self, encoded: Sequence[Encoded], spans: Sequence[tuple[int, int]], batch_size: int) -> list[Score]:
        scores: list[Score | None] = [None] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            ids, mask = self.pad([encoded[i].ids for i in rows])
            hidden = self.model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state
            for j, i in enumerate(rows):
                a, b = spans[i]
                logits = self.head(hidden[j, a - 1 : b - 1]).float()
                gold = ids[j, a:b]
                logprobs = logits.log_softmax(-1).gather(1, gold[:, None]).squeeze(1)
                hits = logits.argmax(-1) == gold
                scores[i] = Score(logprobs.mean().item(), hits.float().mean().item(), bool(hits.all()), b - a)
        return [s for s in scores if s is not None]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states: (..., hidden) -> (..., vocabulary)."""
        return self.model.get_output_embeddings()(hidden)

