#!/usr/bin/env bash
# Frames, face crops and all features as a job array. Each task does the clips whose ids fall into its shard, from the
# videos to the features, and knows nothing of the others:
#
#     id=$(sbatch --parsable docs/slurm.sh)
#     sbatch --dependency=afterany:$id docs/slurm_train.sh
#
# Whatever a task was at when it was preempted, killed or out of time, it does again when it is requeued, and nothing
# else. Tasks can be repeated by hand, too; how many shards there are must then be said, for the array no longer says it:
#
#     SHARDS=16 sbatch --array=3,7 docs/slurm.sh
#
#SBATCH --job-name=viper-extract
#SBATCH --array=1-16
#SBATCH --cpus-per-task=8
#SBATCH --gres=gpu:1
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -uo pipefail

: "${VIDEOS:=videos}"        # the videos, on the shared file system
: "${FEATURES:=features}"    # the features, on the shared file system: one small file a clip and modality
: "${MODELS:=models}"        # local folders of the pretrained models, fetched beforehand (viper doctor says which)
# Pictures are needed only on the way to features. On the node's own disk they cost the shared one nothing: 32 files a
# clip and stage are what a cluster's file system takes worst. But they are gone when the task is: a requeued task makes
# its pictures again. To keep them: PICTURES=/some/shared/folder.
: "${PICTURES:=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/viper-${SLURM_ARRAY_JOB_ID:-0}-${SLURM_ARRAY_TASK_ID:-0}}"
: "${SHARDS:=${SLURM_ARRAY_TASK_COUNT:?run it with sbatch --array=1-N}}"
shard="${SLURM_ARRAY_TASK_ID}/${SHARDS}"

# No compute node needs the internet.
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"

# srun hands SIGTERM on to viper, which keeps what is finished and ends within seconds; bash alone would not.
launch() { if command -v srun > /dev/null; then srun --ntasks=1 "$@"; else "$@"; fi; }
outcome=0

# 0: all done. 3: some clips failed and are listed in failures.csv; the others go on. Anything else ends the task.
step() {
    launch viper "$@" --shard "$shard" --n_workers "${SLURM_CPUS_PER_TASK:--1}"
    local code=$?
    case $code in
        0) ;;
        3) outcome=3 ;;
        *) echo "viper $1: exit code $code; shard $shard stops here" >&2; exit "$code" ;;
    esac
}

step get_frame --input_folder "$VIDEOS" --output_folder "$PICTURES/frames" --n_frames 32
step crop_images --input_folder "$PICTURES/frames" --output_folder "$PICTURES/faces"
step extract_visual_features --input_folder "$PICTURES/faces" --output_folder "$FEATURES/visual" \
    --model_name "${VISUAL_MODEL:-$MODELS/vit-base}" --offline
step extract_FAU_features --input_folder "$PICTURES/faces" --output_folder "$FEATURES/FAU" \
    --model_name "${FAU_MODEL:-multitask}" --offline
step extract_audio_features --input_folder "$VIDEOS" --output_folder "$FEATURES/audio" \
    --model_name "${AUDIO_MODEL:-$MODELS/wavlm-base-plus-sv}" --offline

# Why a clip has no pictures must outlive the node's own disk.
for stage in frames faces; do
    if [ -f "$PICTURES/$stage/failures.csv" ]; then
        cp "$PICTURES/$stage/failures.csv" "$FEATURES/failed_${stage}_${SLURM_ARRAY_TASK_ID}.csv"
    fi
done
exit $outcome
