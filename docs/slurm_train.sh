#!/usr/bin/env bash
# After docs/slurm.sh: says what is there and what is missing, and trains when nothing is (or ALLOW_MISSING=1: a training
# does without what is missing). A training that is preempted goes on where it was.
#SBATCH --job-name=viper-train
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -uo pipefail

: "${MANIFEST:=manifest.csv}"
: "${FEATURES:=features}"
: "${RUN:=runs/all}"
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
launch() { if command -v srun > /dev/null; then srun --ntasks=1 "$@"; else "$@"; fi; }

folders=()
for modality in visual FAU audio; do
    folders+=("--${modality}_features_input_folder" "$FEATURES/$modality")
done

viper status --csv_path "$MANIFEST" "${folders[@]}"
code=$?
if [ $code -ne 0 ] && [ "${ALLOW_MISSING:-0}" != 1 ]; then
    echo "features are missing: repeat the shards that did not end, or set ALLOW_MISSING=1" >&2
    exit $code
fi
launch viper train_perceiver --csv_path "$MANIFEST" "${folders[@]}" \
    --output_checkpoint_folder "$RUN" --resume ${TRAINING_OPTIONS:-}
