#!/bin/sh
# The study of batch sizes: bash launch/batch_size.sh configs/evaluate/batch-size/pocket.yaml COUNTERFACT.json runs/batch-size
# The layer sweep, one batch of 16 to 4096 edits, the same 4096 edits in batches one after another; a table and the plots of it.
# COUNTERFACT.json is the benchmark's file, full or reduced. The same line again goes on with what was cut off.
# SHARDS processes work side by side (2), each with a model of its own: one for each GPU, CUDA_VISIBLE_DEVICES=0,1,... by turns.
set -eu
config="$1" data="$2" output="$3" shards="${SHARDS:-2}" lte="${LTE:-lte}"
shift 3
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" TOKENIZERS_PARALLELISM=false
model="$(sed -n 's/^model: *//p' "$config" | cut -d' ' -f1)"
rome="$(sed -n 's/^ *rome: *{*\(from: *\)*\([^,} ]*\).*/\2/p' "$config" | head -n 1)" # the sweep takes the settings of the study's ROME
mkdir -p "$output"
resume=''
if [ -d "$output/layers" ]; then resume=--resume; fi
# shellcheck disable=SC2086
$lte edit locate "$rome" --model "$model" --benchmark counterfact --cases "$data" --limit "${SWEPT:-64}" --no-tracing \
  --output "$output/layers" $resume > "$output/layers.txt"
cat "$output/layers.txt"
pids='' i=0
while [ "$i" -lt "$shards" ]; do
  journal="$output/journal-${i}of$shards.db"
  if [ "$shards" -eq 1 ]; then journal="$output/journal.db"; fi
  resume=''
  if [ -e "$journal" ]; then resume=--resume; fi
  # shellcheck disable=SC2086
  $lte evaluate "$config" --set "data=$data" --output "$output" --shard "$i/$shards" $resume "$@" > "$output/shard-$i.log" 2>&1 &
  pids="$pids $!" i=$((i + 1))
done
for pid in $pids; do wait "$pid" || { tail -n 5 "$output"/shard-*.log >&2; exit 1; }; done
$lte evaluate report "$output" -o batch-size | tee "$output/batch-size.md"
$lte evaluate report "$output" -o batch-size-svg > "$output/batch-size.svg"
