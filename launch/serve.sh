#!/bin/sh
# Serve a model that keeps up with its edits: bash launch/serve.sh configs/serve.yaml --set port=8001
# Everything after the script's name goes to `lte serve`.
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"            # small kernels lose with more: two threads wait for each other
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
exec "${LTE:-lte}" serve "$@"
