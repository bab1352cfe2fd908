# What the sbatch files do: one task a GPU, each a rank of the run, and back into the queue if the run asks for it.
# Tasks are started by srun and no launcher in between: Slurm's signals then reach Python, and its exit codes srun.

if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

run_dir=
for argument in "$@"; do
  case $argument in run_dir=*) run_dir=${argument#run_dir=} ;; esac
done
if [ -z "$run_dir" ]; then
  run_dir=outputs/slurm-$SLURM_JOB_ID   # a requeued job keeps its number
  set -- "$@" "run_dir=$run_dir"
fi

MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
export WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE

rm -f "$run_dir/requeue"   # of an earlier start: a job that cannot even begin must not come back for ever
# This shell outlives both (traps, unlike ignored signals, are not inherited). Slurm sends it SIGTERM where it ends the
# job itself: a job that was cancelled must not come back, and Slurm would let it.
ended=
trap ended=yes TERM
trap : USR1
srun --kill-on-bad-exit=1 bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec python train.py "$@"' \
  train "$@"
code=$?

if [ -f "$run_dir/requeue" ]; then
  echo "asked to stop: $(cat "$run_dir/requeue")"
  if [ -n "$ended" ]; then
    echo "the job was ended: submit the same command with run_dir=$run_dir to go on"
    exit 143
  fi
  scontrol requeue "$SLURM_JOB_ID"
  exit
fi
exit "$code"
