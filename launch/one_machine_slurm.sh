#!/usr/bin/env bash
# A real SLURM cluster with several nodes on one Debian machine (no systemd needed), to try things out and for our tests.
#
#   one_machine_slurm.sh install        install Debian's packages
#   one_machine_slurm.sh start          start the daemons, wait until all nodes take jobs
#   eval "$(one_machine_slurm.sh env)"  in this shell, sbatch, squeue ... talk to this cluster
#   one_machine_slurm.sh status         nodes and jobs
#   one_machine_slurm.sh kill-node I    power failure of node I: all its processes are killed
#   one_machine_slurm.sh start-node I [hide=FOLDER]   bring it back; if asked, with an empty FOLDER that it does not share
#   one_machine_slurm.sh stop           cancel all jobs, end all daemons
#
# Two partitions: jobs in `urgent` preempt those in `main`, which are requeued. Environment, with the defaults:
#   ONE_MACHINE_SLURM=/tmp/one-machine-slurm  folder of everything that is written; another cluster needs another one,
#   ONE_MACHINE_SLURM_PORT=16800              and other ports: this one and the 99 after it
#   NODES=2 CPUS=4 MEM=4000 GPUS=0            CPUs, MB and (pretended) GPUs of each node are counted, not enforced
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin
ROOT=${ONE_MACHINE_SLURM:-/tmp/one-machine-slurm}
PORT=${ONE_MACHINE_SLURM_PORT:-16800}
NODES=${NODES:-2} CPUS=${CPUS:-4} MEM=${MEM:-4000} GPUS=${GPUS:-0}
PACKAGES="munge slurmctld slurmd slurm-client"
FREEZER=/sys/fs/cgroup/freezer/one-machine-$PORT  # of two clusters with the same names and jobs, each has its own
HOST=$(hostname -s)
export SLURM_CONF=$ROOT/etc/slurm.conf

fail() { echo "error: $*" >&2; exit 1; }

install() {
  apt-get update -q
  # shellcheck disable=SC2086  # several words
  DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $PACKAGES
}

check() {
  ((EUID == 0)) || fail "SLURM's daemons start jobs as other users: this must be run as root"
  local command
  for command in munged slurmctld slurmd srun; do
    command -v "$command" >/dev/null || fail "$command is not installed: apt-get install --no-install-recommends $PACKAGES"
  done
  [[ $ROOT == /* && $ROOT != *[[:space:]]* ]] || fail "ONE_MACHINE_SLURM=$ROOT: expected an absolute path without blanks"
  ((${#ROOT} <= 80)) || fail "ONE_MACHINE_SLURM=$ROOT: more than 80 characters, too long for the path of a socket"
  if [[ ! $NODES =~ ^[1-9][0-9]?$ ]] || ((NODES > 70)); then fail "NODES=$NODES: expected 1 to 70"; fi
}

# --- configuration ---

# How slurmd finds the processes of a job to end them: by cgroup all of them; by process group those that have not made
# one of their own.
tracking() { if mkdir -p "$FREEZER" 2>/dev/null && [[ -e $FREEZER/tasks ]]; then echo cgroup; else echo pgid; fi; }

configuration() {
  local last=$((NODES - 1)) gres="" i
  if ((GPUS > 0)); then gres=" Gres=gpu:$GPUS"; fi
  cat <<CONF
ClusterName=one-machine
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
# cred_expire is also how long a requeued job waits before it may start again: 120 s if it is not set
AuthInfo=socket=$ROOT/run/munge.socket,cred_expire=10
ProctrackType=proctrack/$(tracking)
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd-%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd-%n.log
# a node that was down comes back by itself when its slurmd does
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=15
InactiveLimit=0
# seconds from SIGTERM to SIGKILL when a job is cancelled, preempted or out of time: 30 if it is not set
KillWait=3
# squeue remembers ended jobs for a day, in place of an accounting
MinJobAge=86400
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# a preempted job gets the signal that it has asked for (sbatch --signal), not SIGTERM alone
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
# nodes may say that they have more than this machine
SlurmdParameters=config_overrides
GresTypes=gpu
CONF
  for ((i = 0; i < NODES; i++)); do
    echo "NodeName=node$i NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 20 + i)) CPUs=$CPUS RealMemory=$MEM$gres"
  done
  echo "PartitionName=main Nodes=node[0-$last] Default=YES MaxTime=INFINITE PriorityTier=10 PreemptMode=REQUEUE GraceTime=10"
  echo "PartitionName=urgent Nodes=node[0-$last] MaxTime=INFINITE PriorityTier=20 PreemptMode=OFF"
}

configure() {
  local i
  mkdir -p "$ROOT"/{bin,cgroup,dev,etc,log,run,spool,state}
  if alive "$ROOT/run/slurmctld.pid"; then
    cmp -s <(configuration) "$SLURM_CONF" || fail "$ROOT: this cluster runs with other settings; stop it first"
    return
  fi
  configuration > "$SLURM_CONF"
  printf '%s\n' CgroupPlugin=cgroup/v1 CgroupMountpoint="$ROOT/cgroup" > "$ROOT/etc/cgroup.conf"
  ln -sfn "$FREEZER" "$ROOT/cgroup/freezer"
  : > "$ROOT/etc/gres.conf"
  for ((i = 0; i < GPUS; i++)); do  # SLURM wants a character device for a GPU: copies of /dev/null
    [[ -c $ROOT/dev/gpu$i ]] || mknod "$ROOT/dev/gpu$i" c 1 3
    echo "NodeName=node[0-$((NODES - 1))] Name=gpu File=$ROOT/dev/gpu$i" >> "$ROOT/etc/gres.conf"
  done
  for ((i = 0; i < NODES; i++)); do  # jobs look up the names of their nodes
    grep -qE "[[:space:]]node$i([[:space:]]|$)" /etc/hosts || echo "127.0.0.1 node$i" >> /etc/hosts
  done
  stand_in_for_sacct
}

# submitit asks sacct, which has no answers without an accounting (a data base): what it needs is known to squeue, too.
stand_in_for_sacct() {
  cat > "$ROOT/bin/sacct" <<SACCT
#!/usr/bin/env bash
# Answers sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID ...] from what squeue remembers.
export SLURM_CONF=\${SLURM_CONF:-$SLURM_CONF}
ids=" "
while ((\$#)); do case \$1 in -j) ids+="\${2//,/ } "; shift 2 ;; *) shift ;; esac; done
echo "JobID|State|NodeList"
squeue -h -r -t all -o '%i|%T|%N' | while IFS='|' read -r id rest; do
  if [[ \$ids == *" \${id%%_*} "* || \$ids == *" \$id "* ]]; then echo "\$id|\$rest"; fi
done
SACCT
  chmod +x "$ROOT/bin/sacct"
}

# --- processes ---

free() {
  if (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; then
    fail "port $1 is taken, maybe by another cluster: set ONE_MACHINE_SLURM_PORT (now $PORT)"
  fi
}

ended() { [[ ! -e /proc/$1 ]] || grep -qs '^State:.*zombie' "/proc/$1/status"; }

alive() { [[ -s $1 ]] && ! ended "$(<"$1")"; }

gone() {  # wait until processes have ended
  local pid t
  for pid in "$@"; do
    for ((t = 0; t < 150; t++)); do ended "$pid" && break; sleep 0.1; done
    ((t < 150)) || fail "process $pid has not ended in 15 s"
  done
}

end_daemon() {  # by the file with its number
  local pid
  if alive "$1"; then
    pid=$(<"$1")
    kill "$pid"
    gone "$pid"
  fi
  rm -f "$1"
}

# Numbers of the processes of node I: its slurmd and those that look after jobs hold its log open, tasks name it.
node_processes() {
  {
    find /proc/[0-9]*/fd -lname "$ROOT/log/slurmd-node$1.log" 2>/dev/null
    grep -lzxsF "SLURM_CONF=$SLURM_CONF" /proc/[0-9]*/environ | xargs -r grep -lzxsF "SLURMD_NODENAME=node$1"
  } | cut -d / -f 3 | awk '!seen[$1]++' || true  # some have ended before they could be looked at
}

start_node() {
  local hidden=${2:-}
  if alive "$ROOT/run/slurmd-node$1.pid"; then
    [[ -z $hidden ]] || fail "node$1 runs already: kill-node $1 first"
    return
  fi
  mkdir -p "$ROOT/spool/node$1"
  if [[ $hidden ]]; then
    # shellcheck disable=SC2016  # the words are those of the inner shell
    unshare -m bash -c 'mount -t tmpfs none "$1" && exec slurmd -f "$2" -N "$3"' - "$hidden" "$SLURM_CONF" "node$1"
  else
    slurmd -f "$SLURM_CONF" -N "node$1"
  fi
}

kill_node() {
  local pids
  mapfile -t pids < <(node_processes "$1")
  if ((${#pids[@]})); then
    kill -9 "${pids[@]}" 2>/dev/null || true  # one of them may have ended
    gone "${pids[@]}"
  fi
  rm -f "$ROOT/run/slurmd-node$1.pid"
}

resume() {  # of these nodes those that were down or drained: they stay so when the cluster is started anew
  local node
  for node in $(sinfo -h -N -p main -n "$1" -t drain,down -o %N 2>/dev/null); do
    scontrol update NodeName="$node" State=RESUME 2>/dev/null || true
  done
}

up() {  # whether these nodes (such as node0,node1) answer and take jobs
  ! sinfo -h -N -p main -n "$1" -o '%T' 2>&1 | grep -qvE '^(idle|mixed|allocated|completing|planned)-?$'
}

wait_until_up() {
  local t
  for ((t = 0; t < 300; t++)); do
    resume "$1"
    if up "$1"; then return; fi
    sleep 0.1
  done
  sinfo -N -l >&2 || true
  tail -n 3 "$ROOT"/log/*.log >&2
  fail "the nodes did not come up in 30 s"
}

# --- commands ---

start() {
  check
  local i names=node0 fresh=0
  alive "$ROOT/run/slurmctld.pid" || free "$PORT"
  for ((i = 0; i < NODES; i++)); do
    alive "$ROOT/run/slurmd-node$i.pid" || free $((PORT + 20 + i))
  done
  configure
  if ! alive "$ROOT/run/munged.pid"; then
    [[ -s $ROOT/etc/munge.key ]] || (umask 077 && head -c 1024 /dev/urandom > "$ROOT/etc/munge.key")
    munged --force --key-file="$ROOT/etc/munge.key" --socket="$ROOT/run/munge.socket" --pid-file="$ROOT/run/munged.pid" \
      --log-file="$ROOT/log/munged.log" --seed-file="$ROOT/state/munge.seed" 2>/dev/null
  fi
  if ! alive "$ROOT/run/slurmctld.pid"; then
    slurmctld -f "$SLURM_CONF" 2>> "$ROOT/log/slurmctld.log"
    fresh=1
  fi
  for ((i = 0; i < NODES; i++)); do
    start_node "$i"
    names+=,node$i
  done
  wait_until_up "$names"
  # Right after its start slurmctld shows what it remembers of the nodes; a job over all of them tells the truth.
  if ((fresh)); then
    for ((i = 0; i < 30; i++)); do timeout 20 srun -Q -p urgent -N "$NODES" -I5 -t 1 true 2>/dev/null && break; sleep 0.5; done
    ((i < 30)) || fail "a job over all nodes did not start; see $ROOT/log"
    wait_until_up "$names"
  fi
  status
  echo "To use it in this shell:"
  env_line
}

# shellcheck disable=SC2016  # PATH is that of the shell that reads it
env_line() { printf 'export SLURM_CONF=%q PATH=%q:"$PATH"\n' "$SLURM_CONF" "$ROOT/bin"; }

status() {
  alive "$ROOT/run/slurmctld.pid" || fail "$ROOT: no cluster runs here"
  sinfo -N -o '%8N %12P %10T %4c %8m %G'
  squeue
}

stop() {
  check
  local node
  if alive "$ROOT/run/slurmctld.pid"; then
    timeout 20 scancel --user="$(id -un)" 2>/dev/null || true  # else they would be requeued by the next start
  fi
  end_daemon "$ROOT/run/slurmctld.pid"  # first: it would wait for nodes that have gone
  for node in "$ROOT"/spool/node*; do
    kill_node "${node##*/node}"
  done
  end_daemon "$ROOT/run/munged.pid"
  find "$FREEZER" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

node() {  # the number of a node that there is
  [[ -s $SLURM_CONF ]] || fail "$ROOT: no cluster was started here"
  grep -q "^NodeName=node${1:-none} " "$SLURM_CONF" || fail "got '${1:-}', expected the number of a node, from 0"
}

case ${1:-} in
  install) install ;;
  start) start ;;
  stop) stop ;;
  status) status ;;
  env) env_line ;;
  kill-node)
    check
    node "${2:-}"
    kill_node "$2"
    ;;
  start-node)
    check
    node "${2:-}"
    hidden=${3:-}
    hidden=${hidden#hide=}
    [[ -z $hidden || -d $hidden ]] || fail "hide=$hidden: no such folder"
    [[ -z $hidden || $ROOT/ != "${hidden%/}"/* ]] || fail "hide=$hidden: the cluster's own folder $ROOT is in it"
    start_node "$2" "$hidden"
    wait_until_up "node$2"
    ;;
  *)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"
    exit 2
    ;;
esac
