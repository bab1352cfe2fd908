#!/usr/bin/env bash
# What re-parameterisation saves: a tiny DiT learns classes of the embedded data set; text models then start from it,
# re-parameterised, and from nothing. Writes docs/results/reparameterisation.md and .svg.
# Arguments after the script's name go to all text runs (steps=300).
set -euo pipefail
cd "$(dirname "$0")/.."
. tools/environment.sh requirements.txt
out=outputs/reparameterisation
every=(log_every=25 validate_every=25 sample_every=0)

python train.py +stage=1 scale=tiny model.adaln=per_block "${every[@]}" run_dir=$out/dit
python train.py +stage=2 scale=tiny steps=600 "${every[@]}" run_dir=$out/fresh "$@"
for shared in first mean fresh; do
  python train.py +stage=2 scale=tiny steps=600 "${every[@]}" init_from=$out/dit reparameterise=$shared \
    run_dir="$out/from_dit_$shared" "$@"
done
python tools/compare.py \
  "runs={fresh: $out/fresh, first: $out/from_dit_first, mean: $out/from_dit_mean, fresh_map: $out/from_dit_fresh}" \
  out=docs/results/reparameterisation
