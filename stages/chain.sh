#!/usr/bin/env bash
# Submit the jobs of some iterations to Slurm, each after those that it needs; again: only those that are missing.
#
#   stages/chain.sh RECIPE RUN ITERATIONS [--shards N] [--dry-run] [--json]
#
# build-hints, then per iteration rollout (an array), merge, score-ref (an array), merge, train, and eval at the end. The
# recipe's section `slurm` has the resources; docs/slurm.md says more. --dry-run writes RUN/slurm/*.sbatch and prints the
# plan.
set -euo pipefail
if [[ -x .venv/bin/ptdpo ]]; then PATH=$PWD/.venv/bin:$PATH; fi
exec ptdpo chain "$@"
