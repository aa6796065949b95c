"""What the editors that write facts into MLP projections share: statistics, prefixes, keys, values and the write."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from pydantic import Field
from torch import Tensor, nn

from lte.editors.activations import last_seen
from lte.editors.base import EditorError, Rewrite, check_finite, rewrite_of
from lte.editors.contexts import Row, answer_rows, drift_rows, sampled_prefixes
from lte.editors.solve import Factor, Metric, capped
from lte.editors.statistics import StatisticsConfig, second_moments, texts_of
from lte.editors.values import ValueConfig, anchored, bare_rows, look_at_subjects, value_changes
from lte.edits import Edit
from lte.models import LM
from lte.models.tokens import encode

logger = logging.getLogger(__name__)
TEXTS = 256  # whose middle tokens tell how large the outputs of an MLP ordinarily are


class LocatedConfig(ValueConfig):
    """Settings of the editors that write a fact where its subject is read, and of the search for its value."""

    prefixes: int = Field(5, ge=0)  # contexts besides the bare prompt, sampled from the unedited model
    prefix_length: int = Field(10, gt=0)  # tokens of each
    keep_bos: bool = False  # no change reaches the key of the token that opens every text
    frobenius_cap: float | None = Field(None, gt=0)  # ‖Δ‖ of an update is at most this times ‖W‖; None: no cap
    statistics: StatisticsConfig = StatisticsConfig()
    seed: int = 0


@dataclass(frozen=True)
class Ready:
    """What is taken of a model once, before it is edited.

    factors   of C, by layer, or what else an editor counts the cost of a change by
    prefixes  texts that stand before a prompt
    norm      of what the MLP of the last layer ordinarily gives; 0 where no norm anchor asks for it
    """

    factors: dict[int, Metric]
    prefixes: list[str]
    norm: float


class Located:
    """An editor that writes keys and values into some layers' MLP projections; how is what its subclasses say.

    texts  ordinary texts for the second moment, in place of the file that the settings name
    """

    name: str
    config: LocatedConfig

    def __init__(self, config: LocatedConfig, texts: Iterable[str] | None = None) -> None:
        self.config = config
        self.texts = None if texts is None else tuple(texts)
        self._ready: WeakKeyDictionary[nn.Module, Ready] = WeakKeyDictionary()

    def layers(self, lm: LM) -> tuple[int, ...]:
        """The blocks that are rewritten, the lowest first."""
        raise NotImplementedError

    def prepare(self, lm: LM) -> Ready:
        """Statistics and prefixes of the model: taken once, at the first call, which should see it unedited."""
        if lm.model not in self._ready:
            check_finite(lm)
            if any(handle.touched for handle in lm.handles):
                logger.warning(
                    "%s: %s is edited already, and so are the statistics; call prepare() before", self.name, lm.name
                )
            layers, config = self.layers(lm), self.config
            bos = bos_ids(lm) if config.keep_bos else None
            factors: dict[int, Metric] = {}
            for layer, C in second_moments(lm, layers, config.statistics, self.texts).items():
                kept = None if bos is None else last_seen(lm, lm.mlp_out_module(layer), [bos])[0].T
                factors[layer] = self.metric(C.to(lm.mlp_out(layer).device), kept)
            prefixes = sampled_prefixes(lm, config.prefixes, config.prefix_length, config.seed)
            norm = 0.0
            if config.norm_anchor is not None:
                norm = ordinary_norm(
                    lm, layers[-1], texts_of(lm, config.statistics) if self.texts is None else self.texts
                )
            self._ready[lm.model] = Ready(factors, prefixes, norm)
        return self._ready[lm.model]

    def metric(self, C: Tensor, kept: Tensor | None) -> Metric:
        """What a change to a layer costs, by its second moment C; the keys `kept`, (in, n), are not to be moved."""
        factor = Factor.of(C)
        return factor if kept is None else factor.keeping(kept)

    def write(self, W: Rewrite, delta: Tensor) -> None:
        """Add Δ to the weight, scaled down where the settings cap it."""
        W.add_(capped(delta, W.exact, self.config.frobenius_cap))


def rewrites(lm: LM, layers: Iterable[int], undo: ExitStack) -> dict[int, Rewrite]:
    """The layers' projections, ready to be changed; `undo` puts them back."""
    found = {layer: rewrite_of(lm, weight_name(lm, layer), lm.mlp_out(layer)) for layer in layers}
    for W in found.values():
        undo.callback(W.restore_)
    return found


def touched(lm: LM, Ws: dict[int, Rewrite]) -> dict[str, Rewrite]:
    """The rewritten weights by their names."""
    return {weight_name(lm, layer): W for layer, W in Ws.items()}


def weight_name(lm: LM, layer: int) -> str:
    """What the parameter of the layer's MLP projection is called."""
    return f"{lm.layout.mlp_out.format(layer)}.weight"


def low_layer(lm: LM) -> int:
    """A sixteenth of the way up: near the first layers, where single edits of Llama models do best (2405.00664)."""
    return len(lm.blocks) // 16


def keys_of(lm: LM, layer: int, rows: Sequence[Row], contexts: int) -> Tensor:
    """The layer's key at the subject of each row, (edits, contexts, d_k) in float64; an edit's bare prompt is first."""
    keys, _ = last_seen(lm, lm.mlp_out_module(layer), [row.ids[: row.subject + 1] for row in rows])
    return keys.view(-1, contexts, keys.shape[-1])


def mean_keys(keys: Tensor) -> Tensor:
    """One key for each edit, (edits, d_k): half the bare prompt's, half the mean of those behind prefixes (MEMIT)."""
    return keys[:, 0] if keys.shape[1] == 1 else (keys[:, 0] + keys[:, 1:].mean(1)) / 2


def streams_of(lm: LM, layer: int, rows: Sequence[Row]) -> Tensor:
    """What the block gives the residual stream at the subject of each row, (rows, d) in float64."""
    return last_seen(lm, lm.blocks[layer], [row.ids[: row.subject + 1] for row in rows])[1]


def changes_of_values(
    lm: LM, layer: int, edits: Sequence[Edit], ready: Ready, config: LocatedConfig, batch_size: int
) -> Tensor:
    """δ of each edit, (edits, d) in float64: what the layer's MLP is to give beyond what it gives now.

    As a block adds what its MLP gives to the residual stream, it is also what the stream is to gain there.

    batch_size  edits whose values are sought in one forward; those with like many tokens from the subject on, which are
                what each step runs, go together
    """
    bare_prompts = answer_rows(lm, edits)
    order = sorted(range(len(edits)), key=lambda i: len(bare_prompts[i].ids) - bare_prompts[i].subject)
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        part = [edits[i] for i in chosen]
        rows = answer_rows(lm, part, ready.prefixes) + (drift_rows(lm, part) if config.kl_weight else [])
        seen, bare = look_at_subjects(lm, layer, rows), bare_rows(rows)
        stream = streams_of(lm, layer, [rows[i] for i in bare]) if config.norm_of == "block" else None
        delta = value_changes(lm, layer, rows, seen, config, stream).double()
        if config.norm_anchor is not None:
            v = seen.outputs[bare, 0].to(delta)
            size = torch.linalg.vector_norm(v + delta, dim=1) / ready.norm
            logger.info("values of %.3g ordinary norms are set to %.3g", size.mean(), config.norm_anchor)
            delta = anchored(v, delta, config.norm_anchor * ready.norm)
        found |= dict(zip(chosen, delta))
    return torch.stack([found[i] for i in range(len(edits))])


def distinct(editor: str, edits: Sequence[Edit]) -> list[Edit]:
    """What a batch is made of: of edits with one subject and one prompt the last, as if they were applied in turn."""
    last = {(e.subject.strip(), " ".join(e.prompt.split())): e for e in edits}
    if len(last) < len(edits):
        logger.warning(
            "%s: of %d edits, %d give way to later ones of the same prompt", editor, len(edits), len(edits) - len(last)
        )
    return list(last.values())


def bos_ids(lm: LM) -> list[int]:
    """The token that opens every text, which `keep_bos` is about."""
    opening = encode(lm.tokenizer, [lm.render("A")])[0].ids[0]
    if opening != lm.tokenizer.bos_token_id:
        raise EditorError(f"keep_bos: the texts that {lm.name} reads open with no BOS token; set keep_bos: false")
    return [opening]


def ordinary_norm(lm: LM, layer: int, texts: Iterable[str]) -> float:
    """Mean norm of what the layer's MLP gives at the middle token of some texts, cut to 64 tokens."""
    rows: list[list[int]] = []
    for text in texts:
        ids = encode(lm.tokenizer, [text])[0].ids[:64]
        if len(ids) > 1:
            rows.append(ids[: len(ids) // 2 + 1])
        if len(rows) == TEXTS:
            break
    if not rows:
        raise EditorError("norm_anchor: the statistics text holds no text of two tokens; give a text of some pages")
    _, values = last_seen(lm, lm.mlp_out_module(layer), rows)
    return float(torch.linalg.vector_norm(values, dim=1).mean())
