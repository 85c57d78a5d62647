#!/usr/bin/env bash
# One stage over several nodes with Ray (pip install 'viper[ray]'): a head on the first node of the allocation, a worker
# on each of the others, and viper beside the head. Videos, features and models are on the shared file system.
#
#     sbatch docs/slurm_ray.sh extract_visual_features --input_folder faces --output_folder features/visual \
#         --model_name models/vit-base --offline
#
# Where every clip takes about as long as the next, docs/slurm.sh does the same with less; Ray evens out what does not,
# lets many CPU nodes feed few GPUs, and does again by itself what was on a node that died.
#
#SBATCH --job-name=viper-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail
[ $# -gt 0 ] || { echo "usage: sbatch $0 COMMAND OPTIONS" >&2; exit 2; }

cpus="${SLURM_CPUS_PER_TASK:?run it with sbatch}"
gpus="${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
# Several users may have a Ray on one node.
port=$((20000 + SLURM_JOB_ID % 20000))
address="$(getent ahostsv4 "$head" | awk 'NR == 1 { print $1 }'):$port"

export HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
one_on() { srun --overlap --nodes=1 --ntasks=1 --nodelist="$1" "${@:2}"; }

one_on "$head" ray start --head --port="$port" --node-ip-address="${address%:*}" --include-dashboard=false \
    --num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats --block &
for node in "${nodes[@]:1}"; do
    one_on "$node" ray start --address="$address" --num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats --block &
done
trap 'kill $(jobs -p) 2> /dev/null; wait' EXIT

# viper counts the GPUs when it starts: all nodes must be there by then.
for _ in $(seq 60); do
    there=$(one_on "$head" python -c "
import ray
ray.init('$address', log_to_driver=False, logging_level='critical')
print(sum(node['Alive'] for node in ray.nodes()))" 2> /dev/null)
    [ "${there:-0}" -ge "${#nodes[@]}" ] && break
    sleep 5
done

one_on "$head" viper "$@" --engine ray --ray_address "$address" --num_gpus "$((gpus * ${#nodes[@]}))"
