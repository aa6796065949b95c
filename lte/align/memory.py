"""What a run needs of each GPU, from the model's config alone: nothing is loaded, nothing is allocated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lte.align.adapter import lora_config
from lte.align.settings import TrainSettings

GB = 1e9  # as GPUs are sold
BUCKET = 500_000_000  # numbers that DeepSpeed reduces at once where a preset does not say (ZeRO's own default)
TILE = 4096, 32768  # logits that TRL holds at once, positions x vocabulary; it never makes those of a whole batch
NF4 = (
    4 + 8 / 64 + 32 / (64 * 256)
) / 8  # bytes a weight: 4 bits and doubly quantised scales (arXiv:2305.14314, section 3)


@dataclass(frozen=True)
class Shape:
    """How many numbers a model has, and of what kind; widths are those of its decoder blocks."""

    parameters: int  # without the adapter's
    trained: int  # the adapter's, or all
    linear: int  # in the linear layers of the blocks: what QLoRA keeps in 4 bits
    tables: int  # in the embeddings and the output projection, once where these are one
    largest: int  # of one module: what ZeRO-3 gathers at once
    adapted: int  # modules with an adapter
    layers: int
    hidden: int
    mlp: int
    heads: int
    query: int  # width of all query heads
    keys: int  # width of all key heads
    vocabulary: int


@dataclass(frozen=True)
class Memory:
    """Bytes on each GPU, and on its host for what is offloaded (all GPUs of a node add up there)."""

    parameters: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float
    host: float

    @property
    def total(self) -> float:
        """Bytes on the GPU; the CUDA context and the allocator's gaps, about 1 to 3 GB, come on top."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.buffers

    def gigabytes(self) -> dict[str, float]:
        """Everything in GB (1e9 bytes), rounded for people."""
        return {name: round(value / GB, 3) for name, value in {**asdict(self), "total": self.total}.items()}


def shape_of(config: Any, t: TrainSettings) -> Shape:
    """Count a model of this config (transformers' `PreTrainedConfig`) and its adapter on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config(decoder=True)
    head = model.get_output_embeddings()
    tables = {m.weight for m in (model.get_input_embeddings(), head)}
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    total = sum(p.numel() for p in model.parameters())
    largest = max(sum(p.numel() for p in m.parameters(recurse=False)) for m in model.modules())
    trained, adapted = total, 0
    if t.method != "full":
        from peft import get_peft_model
        from peft.tuners.lora import LoraLayer

        with torch.device("meta"):
            tuned: Any = get_peft_model(model, lora_config(t.lora))
        trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
        adapted = sum(isinstance(m, LoraLayer) for m in tuned.modules())
    heads = text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    return Shape(
        parameters=total,
        trained=trained,
        linear=sum(m.weight.numel() for m in linear),
        tables=sum(w.numel() for w in tables),
        largest=largest,
        adapted=adapted,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        mlp=getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size,
        heads=heads,
        query=heads * width,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * width,
        vocabulary=text.vocab_size,
    )


def estimate(shape: Shape, t: TrainSettings, gpus: int = 1, preset: Mapping[str, Any] | None = None) -> Memory:
    """Bytes per GPU of a training step at its peak, every row `max_length` tokens long.

    preset  a DeepSpeed config as a mapping; `None` trains without it, each GPU with the whole state

    ZeRO divides a trained parameter's bytes among N GPUs (arXiv:1910.02054, section 5): the optimizer's from stage 1
    on, the gradient from stage 2, the parameter itself, and those that are not trained, at stage 3. Of the optimizer
    there are 16 bytes: master copy, momentum, variance in float32 (12, the paper's K), and the gradient in float32
    that DeepSpeed makes for the step (4), as its own `estimate_zero3_model_states_mem_needs` reckons: 18 with the
    gradient in bfloat16. Stage 3 holds the module it is at, and its gradient, whole: 4 bytes a number.

    Without DeepSpeed a trained parameter is float32 with a float32 gradient and Adam's 8 bytes, and under autocast
    there is a bfloat16 copy as well; a model that stays as it is, is bfloat16.
    """
    base = _frozen(shape, t)
    zero = dict((preset or {}).get("zero_optimization", {}))
    stage = int(zero.get("stage", 0))
    n1, n2, n3 = (gpus if stage >= least else 1 for least in (1, 2, 3))
    if preset is None:
        copies = 2 * shape.trained if t.bf16 else 0
        states = base + 4 * shape.trained, 4 * shape.trained, 8 * shape.trained
        return Memory(*states, activations=_activations(shape, t, half=False), buffers=copies, host=0)
    parameters = (base + 2 * shape.trained) / n3
    gradients, optimizer = 2 * shape.trained / n2, 16 * shape.trained / n1
    bucket = zero.get("reduce_bucket_size", BUCKET)
    buffers = 2.0 * (shape.hidden**2 if bucket == "auto" else bucket)
    buffers *= 2 if zero.get("overlap_comm") and stage in (1, 2) else 1  # one fills while the other is on its way
    buffers += 4 * shape.largest if stage == 3 else 0
    host = 0.0
    if _offloaded(zero, "offload_optimizer"):
        host, gradients, optimizer = host + gradients + optimizer, 0, 0
    if _offloaded(zero, "offload_param"):
        host, parameters = host + parameters, 0
    return Memory(parameters, gradients, optimizer, _activations(shape, t, half=True), buffers, host)


def block_bytes(shape: Shape, t: TrainSettings, half: bool) -> int:
    """Bytes a token that one decoder block keeps for the backward pass, in bfloat16 with fused attention.

    Counted on Llama's block (two RMSNorms, gated MLP): each norm its input in float32 and its normalised input and
    output, 8h + 4; queries and output 4q, keys and values 4k, the softmax's sums 4 a head; in the MLP gate, its
    activation, the other half and the product, 8f. A frozen norm keeps no normalised input. Each adapter keeps its
    r inner numbers, and, in float32 under autocast (`half` is False), a copy of its input.
    Eager attention would add its probabilities, which grow with the square of the length (arXiv:2205.05198, Eq. 1).
    """
    h, q, k, f = shape.hidden, shape.query, shape.keys, shape.mlp
    kept = 16 * h + 4 * q + 4 * k + 4 * shape.heads + 8 + 8 * f
    if t.method == "full":
        return kept
    each = shape.adapted // max(shape.layers, 1)
    return kept - 4 * h + 2 * t.lora.r * each + (0 if half else 6 * h + 2 * q)


def _activations(shape: Shape, t: TrainSettings, half: bool) -> float:
    """Of all blocks; with checkpointing the input of each (2h a token) and one block in full, made again (ibid., 5).

    Beside them the last norm, and one tile of logits in float32 with its copy in bfloat16; where the output
    projection is trained, its gradient in float32 before it is rounded.
    """
    tokens = t.batch_size * t.max_length
    block = block_bytes(shape, t, half)
    blocks = 2 * shape.hidden * shape.layers + block if t.gradient_checkpointing else block * shape.layers
    head = 6.0 * min(tokens, TILE[0]) * min(shape.vocabulary, TILE[1])
    head += 4.0 * shape.vocabulary * shape.hidden if t.method == "full" else 0
    return tokens * (blocks + 8.0 * shape.hidden) + head


def _frozen(shape: Shape, t: TrainSettings) -> float:
    """Bytes of the weights that are not trained."""
    if t.method == "full":
        return 0
    kept = shape.linear if t.method == "qlora" else 0
    return 2.0 * (shape.parameters - kept) + NF4 * kept


def _offloaded(zero: Mapping[str, Any], name: str) -> bool:
    return str((zero.get(name) or {}).get("device", "none")) != "none"


def flops(shape: Shape, t: TrainSettings, tokens: int, learned: int | None = None) -> float:
    """Of training on so many tokens: 2 a parameter forward, 4 backward (arXiv:2001.08361, section 2.1).

    Frozen weights need no gradient of their own, 2 less; checkpointing goes forward through the blocks twice, 2 more.
    The embeddings are looked up, not multiplied. The output projection is for the tokens that carry loss, `learned`, as
    TRL has it on a GPU; `None`: for all. Attention's own products are left out: a few per cent at these lengths.
    """
    each = 6.0 - 2 * (t.method != "full")
    blocks = tokens * (shape.parameters - shape.tables) * (each + 2 * t.gradient_checkpointing)
    return blocks + (tokens if learned is None else learned) * shape.vocabulary * shape.hidden * each


def plan(shape: Shape, t: TrainSettings, lengths: list[int], gpus: int = 1) -> dict[str, float]:
    """Steps, tokens and arithmetic of a run over rows of these lengths (tokens); longer rows are as long as allowed.

    exaflops  1e18 operations; a GPU that does 400e12 a second, 40% of what an H100's data sheet says for bfloat16,
              needs 2500 seconds for one
    """
    content = sum(min(n, t.max_length) for n in lengths)
    a_step = t.batch_size * t.accumulation * gpus
    steps = t.max_steps if t.max_steps > 0 else -(-len(lengths) // a_step) * t.epochs
    epochs = steps * a_step / max(len(lengths), 1)
    tokens = int(content * epochs)
    return {
        "steps": round(steps),
        "rows_a_step": a_step,
        "tokens": tokens,
        "exaflops": flops(shape, t, tokens) / 1e18,
        "gpu_hours_at_400_tflops": flops(shape, t, tokens) / 400e12 / 3600,
    }
