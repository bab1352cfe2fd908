#!/usr/bin/env bash
# The rows of docs/miniature.md: stage 2 of the miniature with one thing changed, each scored on the held-out prompts at
# its own size. Arguments after the script's name go to all runs (steps=1000 seed=1).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh requirements.txt
out=outputs/miniature
pixels="autoencoder=pixels model.patch_size=4"

row() { # name, then what is changed
  local name=$1
  shift
  python train.py +stage=2 scale=tiny sample_every=0 run_dir="$out/$name" "$@" "${everywhere[@]}"
  python tools/evaluate.py "weights={$name: $out/$name}" json="$out/$name.json"
}

everywhere=("$@")
row as_it_is
row no_muon optimizer=adamw optimizer.lr=3.0e-3 optimizer.lr_decay=linear
# shellcheck disable=SC2086
row no_autoencoder $pixels
row no_spread_positions model.interpolation_scale=1.0
row wide_and_shallow model.dim=144 model.depth=4
row paper_objective objective=ddpm sampling.scheduler=dpm_solver
