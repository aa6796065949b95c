#!/bin/sh
# Serve a model and its aligned adapter: bash launch/vllm.sh data/pocket data/pocket/adapter --port 8000
# The model answers as "base", the adapter as "lte"; with "" for the adapter, the model alone. `lte serve --vllm` starts it
# as well. What follows the two folders goes to vLLM, and of a setting given twice the last one counts: --dtype float32,
# --max-lora-rank 64, --served-model-name NAME. `make vllm` installs it.
set -eu
MODEL="${1:?the folder of the model}" ADAPTER="${2?the folder of its adapter}"
shift 2
PYTHON="${LTE_VLLM:-.venv-vllm}/bin/python"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"                        # small kernels lose with more
export VLLM_CPU_OMP_THREADS_BIND="${VLLM_CPU_OMP_THREADS_BIND:-0}"    # without a GPU: its cores, "0-15" or auto
export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}"          # without a GPU: GiB
export VLLM_NO_USAGE_STATS="${VLLM_NO_USAGE_STATS:-1}"
serve() {
  exec "$PYTHON" -m vllm.entrypoints.openai.api_server --model "$MODEL" --served-model-name base --host 127.0.0.1 "$@"
}
test -n "$ADAPTER" || serve "$@"
# LoRA on the adapter's own modules alone: with the output head among them, as is vLLM's habit, a question for a prompt's
# likelihoods ends the engine on a CPU. And places for two adapters though there is one: on a CPU, what is asked of the
# model while the adapter is asked goes through the last place, which has to be empty.
MODULES="$("$PYTHON" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["target_modules"])' \
  "$ADAPTER/adapter_config.json")"
# shellcheck disable=SC2086  # one word each
serve --enable-lora --lora-modules "lte=$ADAPTER" --max-lora-rank 32 --max-loras 2 \
  --lora-target-modules $MODULES "$@"
