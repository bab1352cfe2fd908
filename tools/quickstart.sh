#!/usr/bin/env bash
# The whole recipe in miniature: three stages on the embedded data set, their scores, and pictures of the last one.
# No GPU, no download beyond the packages. Stopped and started again, it goes on where it was. Keys given here, such as
# seed=44, go to all three trainings; OUT=… is the folder for everything.
set -euo pipefail
cd "$(dirname "$0")/.."
started=$(date +%s)
. tools/environment.sh requirements.txt
out=${OUT:-outputs/quickstart}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}  # large pages: fewer faults in every operator

# As at paper scale, the frozen encoders are asked once; each stage then trains on what they said.
extract() {
  python tools/extract.py "+stage=$1" scale=tiny "data.num_samples=$2" batch=64 "out=$out/features/stage$1"
}
extract 1 12288
extract 2 24576
extract 3 49152
train() {
  python train.py "+stage=$1" scale=tiny data=shapes_features "data.root=$out/features/stage$1" \
    "run_dir=$out/stage$1" "${@:2}"
}
train 1 "$@"
train 2 "init_from=$out/stage1" "$@"
train 3 "init_from=$out/stage2" "$@"

# Stage 2 is asked for the pictures that stage 3 is asked for, and once more for pictures of its own size. The weights
# that know less, for autoguidance, are of a fifth of each stage's steps; "alone" goes without.
before2=$out/stage2/snapshots/step_00000250.safetensors
before3=$out/stage3/snapshots/step_00000500.safetensors
autoguidance="stage2: $before2, stage2_at_32: $before2, stage3: $before3"
drawn=("autoguidance=$before3" autoguidance_scale=3)
if [ ! -f "$before2" ] || [ ! -f "$before3" ]; then
  echo "No snapshots of steps 250 and 500 with these keys: scores and pictures go without autoguidance"
  autoguidance= drawn=()
fi
weights="stage1: $out/stage1, stage2: $out/stage2, stage2_at_32: $out/stage2"
python tools/evaluate.py "weights={$weights, stage3: $out/stage3, stage3_alone: $out/stage3}" \
  "sizes={stage2: [[40, 40], [32, 48], [48, 32]]}" \
  "autoguidance={$autoguidance}" autoguidance_scale=3 \
  "json=$out/summary.json" "images=$out/evaluation" started="$started"
python sample.py "weights=$out/stage3" ${drawn[@]+"${drawn[@]}"} prompts=configs/sampling/shapes.txt "out=$out/samples"

cat <<EOF

Scores    $out/summary.json
Pictures  $out/samples/grid.png
Page      $out/samples/index.html
Runs      $out/stage1, stage2, stage3 (metrics.jsonl, samples/, snapshots/, checkpoints/)
EOF
