#!/bin/sh
# What a GPU makes of the editors and of alignment: bash launch/gpu_check.sh [FOLDER]
# Writes to FOLDER, by default tests/benchmarks/results/gpu, one JSON file for each of: edits a second on a
# random-weight Llama-3-8B shape; 4096 edits by one MEMIT batch on it, statistics included; the solver at 14336 inputs;
# tokens a second of alignment, LoRA and full, and the share of the GPU's peak. Nothing is downloaded. Ends with status
# 1 where there is no CUDA. ALIGN goes to the last, e.g. "--attention flash_attention_2 --peak-tflops 835" for a GPU whose
# peak is not known there. To see that it runs, on a processor, in small:
#   DEVICE=cpu SHAPE=tiny BATCHES="1 8" EDITS=16 INPUTS=256 ALIGN="--accumulation 1" bash launch/gpu_check.sh FOLDER
set -eu
folder="${1:-tests/benchmarks/results/gpu}"
DEVICE="${DEVICE:-cuda}" SHAPE="${SHAPE:-llama3-8b}" PYTHON="${PYTHON:-python3}"
export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$PWD"
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
mkdir -p "$folder"
if [ "$DEVICE" != cpu ]; then
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "gpu_check.sh: no CUDA device is at hand; DEVICE=cpu SHAPE=tiny tries the commands without one" >&2
    exit 1
  }
  nvidia-smi >"$folder/nvidia-smi.txt"
fi
set -x
# shellcheck disable=SC2086  # one word each
"$PYTHON" tests/benchmarks/test_editing_speed.py --model "$SHAPE" --device "$DEVICE" --batches ${BATCHES:-1 64 1024} \
  --ones 8 --alone 8 --rounds 2 -o "$folder/editing.json"
"$PYTHON" tests/benchmarks/test_whole_batch.py --shape "$SHAPE" --device "$DEVICE" --edits "${EDITS:-4096}" \
  -o "$folder/whole-batch.json"
"$PYTHON" tests/benchmarks/test_solver_speed.py --inputs "${INPUTS:-14336}" --device "$DEVICE" -o "$folder/solver.json"
# Full fine-tuning of 8e9 weights in float32 takes 144 GB beside its activations, more than one H200 has; in bfloat16,
# as this script holds them on a GPU, 64 GB: good to measure by, not to train well by.
for method in lora full; do
  # shellcheck disable=SC2086  # one word each, or none
  "$PYTHON" tests/benchmarks/test_align_throughput.py --shape "$SHAPE" --device "$DEVICE" --method "$method" \
    ${ALIGN:-} -o "$folder/align-$method.json"
done
