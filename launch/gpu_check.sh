#!/bin/sh
# What a GPU makes of the editors: bash launch/gpu_check.sh [FOLDER]
# Writes to FOLDER, by default tests/benchmarks/results/gpu, one JSON file for each of: edits a second on a random-weight
# Llama-3-8B shape; 4096 edits by one MEMIT batch on it, statistics included; the solver at 14336 inputs. Nothing is
# downloaded. Ends with status 1 where there is no CUDA. To see that it runs, on a processor, in small:
#   DEVICE=cpu SHAPE=tiny BATCHES="1 8" EDITS=16 INPUTS=256 bash launch/gpu_check.sh FOLDER
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
