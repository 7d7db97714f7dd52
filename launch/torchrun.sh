#!/usr/bin/env bash
# Training without SLURM: starts one process for each GPU of this machine; what follows are the words of dinotrain.train.
#
#   launch/torchrun.sh +experiment=quickstart                          all GPUs of this machine; one process if it has none
#   PROCESSES=2 launch/torchrun.sh +experiment=quickstart              so many processes, on GPUs or on the CPU
#   NODES=4 RENDEZVOUS=node0:29400 launch/torchrun.sh +experiment=...  on each of four machines, all with the same words
#
# RENDEZVOUS is the name of one of the machines and a free port on it: there they find each other. They need the same
# code, data and output folder on paths that all of them share. Ctrl-C or SIGTERM: finish the step, save, end (then
# torchrun adds a traceback of its own, and ends with 1).
set -euo pipefail

if (($# == 0)); then
  sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
  exit 2
fi
if [[ ! ${RENDEZVOUS:-} && ${NODES:-1} != 1 ]]; then
  echo "error: NODES=$NODES needs RENDEZVOUS=HOST:PORT, the same on all of them" >&2
  exit 2
fi

if [[ ! ${PROCESSES:-1} =~ ^[1-9][0-9]*$ ]]; then
  echo "error: PROCESSES=$PROCESSES: expected a number, such as 2" >&2
  exit 2
fi

words=(--nproc-per-node="${PROCESSES:-$(nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo 1)}")
if [[ ${RENDEZVOUS:-} ]]; then
  words+=(--nnodes="${NODES:-1}" --rdzv-backend=c10d --rdzv-id=dinotrain --rdzv-endpoint="$RENDEZVOUS")
else
  words+=(--standalone)
fi

# The code that this file belongs to, whether or not it is installed.
PYTHONPATH=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)${PYTHONPATH:+:$PYTHONPATH}
export PYTHONPATH
# What is mistyped is said once, and not by every process with torchrun's traceback below.
python -m dinotrain.train --config "$@" >/dev/null
exec torchrun "${words[@]}" -m dinotrain.train "$@"
