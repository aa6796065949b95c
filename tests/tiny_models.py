"""A few random layers of real architectures, built in memory, so that the suite runs on a laptop, offline."""

from __future__ import annotations

import torch
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

TEXTS = [
    "The mother tongue of Danielle Darrieux is French.",
    "Toko Yasuda plays the guitar. Where was Edwin of Northumbria born? In Paris, London or Rome.",
    "[Updated Information]\n- The capital of France is Lyon.\n[Question] What is the capital of France?",
]
SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = {**SMALL, "intermediate_size": 56, "num_key_value_heads": 2, "head_dim": 8}
CONFIGS = {
    "llama": (LlamaConfig, LLAMA_LIKE),
    "mistral": (MistralConfig, LLAMA_LIKE),
    "qwen2": (Qwen2Config, LLAMA_LIKE),
    "qwen3": (Qwen3Config, LLAMA_LIKE),
    "gemma": (GemmaConfig, LLAMA_LIKE),  # the embeddings are the output projection as well
    "gpt2": (GPT2Config, {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512}),
    "gptj": (GPTJConfig, {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "rotary_dim": 4}),
    "gpt_neox": (GPTNeoXConfig, {**SMALL, "intermediate_size": 56}),
}


def tiny_model(architecture: str, tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> PreTrainedModel:
    """A random model of `architecture`, three layers deep."""
    kind, shape = CONFIGS[architecture]
    torch.manual_seed(seed)
    config = kind(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.3,
        **shape,
    )
    return AutoModelForCausalLM.from_config(config).eval()
