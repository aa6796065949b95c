#!/bin/sh
# Evaluate editors: bash launch/evaluate.sh configs/evaluate/quick.yaml --output results/quick
# Everything after the script's name goes to `lte evaluate`.
set -eu
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"            # small kernels lose with more: two threads wait for each other
export TOKENIZERS_PARALLELISM="${TOKENIZERS_PARALLELISM:-false}"
exec "${LTE:-lte}" evaluate "$@"
