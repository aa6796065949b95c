#!/bin/sh
# The study of alignment recipes: bash launch/recipe_study.sh runs/recipes
# Five adapters with three seeds each, trained and measured on the pocket model; figures, a table and a drawing of them
# in the folder. The same line again goes on with what was cut off. SHARDS processes work side by side (2), a thread each.
set -eu
folder="${1:?the folder for everything that is made, e.g. runs/recipes}"
shift
export MALLOC_MMAP_THRESHOLD_=2147483648 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
exec "${PYTHON:-python3}" -u -m lte.pocket.study "$folder" "$@" --processes "${SHARDS:-2}"
