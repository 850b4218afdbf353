#!/usr/bin/env bash
# One slide on a Slurm cluster: an array of tasks that each encode a share, then one job that puts them together.
#
#   ./submit.sh slide.svs pyramid.tif 16
#
# The source and the folder of the destination must be on a filesystem that every node sees. What went wrong costs only
# what is missing: run the same line again, and tasks whose shards are there end at once. Options for sbatch (partition,
# account, ...) come from the environment: SBATCH_PARTITION, SBATCH_ACCOUNT, ...
set -euo pipefail

here=$(dirname "$(realpath "$0")")
source=$(realpath "$1")
destination=$(realpath "$2")
tasks=${3:-16}
shards=$destination.shards

array=$(sbatch --parsable --array="0-$((tasks - 1))" "$here/shard.sbatch" "$source" "$shards" "$tasks")
# afterany, not afterok: assembling checks the shards itself. Where tasks failed, its log names them and how to run them
# again, and a task that was cancelled and requeued in time does no harm.
assemble=$(sbatch --parsable --dependency="afterany:$array" "$here/assemble.sbatch" "$shards" "$destination")
echo "$array $assemble"
