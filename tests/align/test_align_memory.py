"""The estimate of a run's memory: against numbers reckoned by hand, a real model's bytes, and DeepSpeed's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from lte.align.adapter import lora_config
from lte.align.memory import GB, Shape, block_bytes, estimate, flops, plan, shape_of
from lte.align.settings import TrainSettings
from lte.models import LM

pytest.importorskip("peft", reason="alignment needs the extra: pip install 'lte[align]'")
PRESETS = Path(__file__).parents[2] / "configs/deepspeed"
LLAMA_8B = LlamaConfig(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8, intermediate_size=14336,
    vocab_size=128256, tie_word_embeddings=False,
)  # fmt: skip
FULL = TrainSettings(method="full", batch_size=1, max_length=100)


def preset(name: str) -> dict:
    return json.loads((PRESETS / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def llama() -> Shape:
    return shape_of(LLAMA_8B, TrainSettings())


def test_llama_3_8b_is_counted_without_a_weight(llama: Shape):
    block = 4096 * (4096 + 1024 + 1024 + 4096) + 3 * 4096 * 14336 + 2 * 4096
    assert llama.parameters == 32 * block + 2 * 128256 * 4096 + 4096 == 8_030_261_248
    adapter = 16 * ((4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 14336) * 3)
    assert llama.trained == 32 * adapter == 41_943_040 and llama.adapted == 32 * 7
    assert llama.tables == 2 * 128256 * 4096
    small = {"hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 1, "num_attention_heads": 4}
    tied = LlamaConfig(**small, vocab_size=50, tie_word_embeddings=True)
    assert shape_of(tied, TrainSettings()).tables == 50 * 64
    assert llama.linear == 32 * (block - 2 * 4096) and llama.largest == 128256 * 4096
    assert (llama.query, llama.keys, llama.mlp) == (4096, 1024, 14336)
    assert shape_of(LLAMA_8B, FULL).trained == llama.parameters


def test_lora_on_one_gpu_by_hand(llama: Shape):
    """16 GB of frozen weights in bfloat16; 16 bytes an adapter's number, and 2 for its copy under autocast."""
    m = estimate(llama, TrainSettings(batch_size=1, max_length=100))
    assert m.parameters == 2 * 8_030_261_248 + 4 * 41_943_040
    assert (m.gradients, m.optimizer, m.buffers) == (4 * 41_943_040, 8 * 41_943_040, 2 * 41_943_040)
    assert m.host == 0 and m.gigabytes()["parameters"] == 16.228


def test_qlora_keeps_4_127_bits_of_a_linear_layers_weight(llama: Shape):
    """QLoRA, section 3: double quantisation takes the scales from 0.5 to 0.127 bits a weight."""
    quantised = estimate(llama, TrainSettings(method="qlora")).parameters
    rest = 2 * (llama.parameters - llama.linear) + 4 * llama.trained
    assert 8 * (quantised - rest) / llama.linear == pytest.approx(4.127, abs=1e-3)


@pytest.mark.parametrize("gpus", [1, 4, 16])
def test_full_fine_tuning_under_zero_is_what_deepspeed_reckons(gpus: int):
    stage3 = pytest.importorskip("deepspeed.runtime.zero.stage3")
    stage2 = pytest.importorskip("deepspeed.runtime.zero.stage_1_and_2")
    shape = shape_of(LLAMA_8B, FULL)
    total, largest = shape.parameters, shape.largest

    m = estimate(shape, FULL, gpus, preset("zero2"))
    theirs = stage2.estimate_zero2_model_states_mem_needs(total, num_gpus_per_node=gpus, cpu_offload=False)[1]
    assert m.parameters + m.gradients + m.optimizer == pytest.approx(theirs, rel=1e-6)

    m, bucket = estimate(shape, FULL, gpus, preset("zero3")), 2 * 4096**2
    want = {"num_gpus_per_node": gpus, "cpu_offload": False, "cpu_offload_params": False}
    theirs = stage3.estimate_zero3_model_states_mem_needs(total, largest, **want)[1]
    ours = m.parameters + m.gradients + m.optimizer + m.buffers - bucket
    # ours counts the parameters in bfloat16 beside their 18 bytes, as theirs does at stage 2 and not at stage 3
    assert ours == pytest.approx(theirs + 2 * total / gpus, rel=1e-6)


def test_each_stage_of_zero_divides_what_it_should():
    shape = shape_of(LLAMA_8B, FULL)
    p = shape.parameters
    stages = [estimate(shape, FULL, 4, {"zero_optimization": {"stage": n}}) for n in range(4)]
    assert [m.optimizer for m in stages] == [16 * p, 4 * p, 4 * p, 4 * p]
    assert [m.gradients for m in stages] == [2 * p, 2 * p, p / 2, p / 2]
    assert [m.parameters for m in stages] == [2 * p, 2 * p, 2 * p, p / 2]
    assert stages[3].buffers - stages[1].buffers == 4 * shape.largest


def test_offload_moves_bytes_and_loses_none():
    shape = shape_of(LLAMA_8B, FULL)
    here, there = (estimate(shape, FULL, 2, preset(name)) for name in ("zero3", "zero3-offload"))
    assert (there.parameters, there.gradients, there.optimizer) == (0, 0, 0)
    assert there.host == here.parameters + here.gradients + here.optimizer and here.host == 0
    assert there.buffers == here.buffers and there.activations == here.activations


def test_the_ready_configs_fit_their_gpus(llama: Shape):
    """What the comments of configs/align say: 80 GB GPUs, and room for the CUDA context."""
    from lte.align.train import AlignConfig
    from lte.config import load

    seventy = LlamaConfig(
        hidden_size=8192, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, intermediate_size=28672,
        vocab_size=128256, tie_word_embeddings=False,
    )  # fmt: skip
    one = LlamaConfig(
        hidden_size=2048, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, intermediate_size=8192,
        vocab_size=128256, tie_word_embeddings=True, head_dim=64,
    )  # fmt: skip
    two = LlamaConfig(
        hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11008, vocab_size=32000
    )
    for name, config, gpus, size in [
        ("llama3.2-1b", one, 1, 24), ("llama3-8b", LLAMA_8B, 1, 80), ("llama3-8b-full", LLAMA_8B, 4, 80),
        ("llama3-70b", seventy, 16, 80), ("lte-paper", two, 4, 80),
    ]:  # fmt: skip
        settings = load(AlignConfig, PRESETS.parent / f"align/{name}.yaml")
        t = settings.train
        m = estimate(shape_of(config, t), t, gpus, preset(Path(settings.deepspeed or "").stem))
        assert m.total < (size - 3) * GB, f"{name}: {m.gigabytes()}"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_real_models_bytes(tiny_lm: LM, method: str):
    """Parameters, gradients and Adam's states of a tiny model that has made a step, counted one by one."""
    from peft import get_peft_model

    t = TrainSettings(method=method, bf16=False, lora={"r": 4})
    shape = shape_of(tiny_lm.model.config, t)
    model = tiny_lm.model if method == "full" else get_peft_model(tiny_lm.model, lora_config(t.lora))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    model(input_ids=torch.tensor([[1, 2, 3]]), labels=torch.tensor([[1, 2, 3]])).loss.backward()
    optimizer.step()
    m = estimate(shape, t)
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)  # float32 here, bfloat16 on a GPU
    assert m.parameters - sum(p.nbytes for p in trained) == frozen / 2
    assert m.gradients == sum(p.grad.nbytes for p in trained if p.grad is not None)
    states = [s for state in optimizer.state.values() for k, s in state.items() if k.startswith("exp_avg")]
    assert m.optimizer == sum(s.nbytes for s in states)


@pytest.mark.parametrize("method,half", [("full", True), ("lora", True), ("lora", False)])
def test_a_real_block_keeps_what_is_reckoned(method: str, half: bool):
    """Every tensor that autograd saves in a Llama block, weights and rotary tables aside."""
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    config = LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=112, vocab_size=50,
    )  # fmt: skip
    t = TrainSettings(method=method, lora={"r": 4})
    shape = shape_of(config, t)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    backbone = model.model
    if method == "lora":
        tuned = get_peft_model(model, lora_config(t.lora), autocast_adapter_dtype=not half)
        tuned.enable_input_require_grads()
    x = torch.randn(2, 50, 64, dtype=torch.bfloat16, requires_grad=True)
    table = backbone.rotary_emb(x, torch.arange(50)[None])
    known = {w.untyped_storage().data_ptr() for w in (*model.parameters(), *table)}
    weights = {tuple(s) for p in model.parameters() for s in (p.shape, p.shape[::-1])}  # autocast copies them
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in known and tuple(tensor.shape) not in weights:
            kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autocast("cpu", torch.bfloat16, enabled=not half):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            backbone.layers[1](x, position_embeddings=table)
    tokens = 2 * 50
    assert sum(k.untyped_storage().nbytes() for k in kept.values()) == tokens * block_bytes(shape, t, half)


def test_checkpointing_keeps_the_input_of_each_block_and_one_block(llama: Shape):
    plain, saving = (
        estimate(llama, TrainSettings(batch_size=2, max_length=1024, gradient_checkpointing=on)) for on in (0, 1)
    )
    block = block_bytes(llama, TrainSettings(), half=False)
    assert plain.activations - saving.activations == 2048 * (31 * block - 32 * 2 * 4096)
    assert plain.parameters == saving.parameters


def test_steps_tokens_and_arithmetic_by_hand(llama: Shape):
    t = TrainSettings(method="full", batch_size=2, accumulation=4, epochs=3, max_length=100)
    made = plan(llama, t, [50] * 30 + [300] * 2, gpus=2)
    assert made["rows_a_step"] == 16 and made["steps"] == 6 and made["tokens"] == 3 * (30 * 50 + 2 * 100)
    multiplied = 8_030_261_248 - 128256 * 4096  # an embedding is looked up
    assert made["exaflops"] == pytest.approx(6 * multiplied * 5100 / 1e18)
    assert made["gpu_hours_at_400_tflops"] == pytest.approx(6 * multiplied * 5100 / 400e12 / 3600)
    assert plan(llama, t.model_copy(update={"max_steps": 2}), [50] * 32, gpus=2)["tokens"] == 2 * 16 * 50
    blocks, head = 8_030_261_248 - 2 * 128256 * 4096, 128256 * 4096
    assert flops(llama, TrainSettings(), 10) == 4 * 10 * (blocks + head)
    assert flops(llama, TrainSettings(gradient_checkpointing=True), 10, learned=3) == 6 * 10 * blocks + 4 * 3 * head
