#!/usr/bin/env bash
# Three hosts of one Ray on this machine, each in a network namespace of its own. Root only.
#
#   netns.sh up               the hosts desk (10.77.0.10, with Ray's head), attic (.11) and cellar (.12), Ray on each
#   netns.sh down             all of it gone again: processes, namespaces, files
#   netns.sh start HOST       Ray on a host whose Ray has ended; the head goes on from its RocksDB
#   netns.sh exec HOST CMD…   a command on a host, let in by Ray, its labs recorded in the state folder
#   netns.sh cut HOST         pull a host's cable: nothing comes and nothing goes, and no connection is reset
#   netns.sh heal HOST        plug it in again
#   netns.sh kill HOST        kill -9 every process of a host; its network stays
#   netns.sh pids HOST        the processes of a host
#
# `up`, `down` and `start` may be said twice. The bridge that joins the hosts is in a fourth namespace: nothing
# is added to this machine's own network, and no packet leaves those four. A namespace is ours if its inode is
# the one that `up` wrote down; no other is ever touched. PYTHON says which Python has Ray (default: .venv).
set -euo pipefail

HOSTS=(desk attic cellar)
WIRE=tierce-wire
STATE=/var/lib/tierce-machines
HEAD=10.77.0.10
LIMIT_S=90
ROOT=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}

refuse() {
    echo "netns.sh: $*" >&2
    exit 2
}

space() { echo "tierce-$1"; }

address() {
    case $1 in
    desk) echo "$HEAD" ;;
    attic) echo 10.77.0.11 ;;
    cellar) echo 10.77.0.12 ;;
    *) refuse "no host '$1'; there are ${HOSTS[*]}" ;;
    esac
}

inode() { stat -Lc %i "/run/netns/$1" 2>/dev/null || true; }

exists() { [[ -e /run/netns/$1 ]]; }

# Whether a namespace is one that we made.
ours() { exists "$1" && [[ $(inode "$1") == "$(cat "$STATE/$1.inode" 2>/dev/null)" ]]; }

need_ours() {
    address "$1" >/dev/null
    ours "$(space "$1")" || refuse "host $1 is not up; run: netns.sh up"
}

make_space() {
    ours "$1" && return
    exists "$1" && refuse "a namespace $1 exists that this script did not make"
    ip netns add "$1"
    inode "$1" >"$STATE/$1.inode"
    ip -n "$1" link set lo up
}

has_link() { ip -n "$1" link show "$2" >/dev/null 2>&1; }

wire_up() {
    make_space "$WIRE"
    has_link "$WIRE" bridge || ip -n "$WIRE" link add bridge up type bridge
    local host space
    for host in "${HOSTS[@]}"; do
        space=$(space "$host")
        make_space "$space"
        if has_link "$space" eth0; then continue; fi
        ip -n "$space" link add eth0 type veth peer name "$host" netns "$WIRE"
        ip -n "$WIRE" link set "$host" master bridge up
        ip -n "$space" address add "$(address "$host")/24" dev eth0
        ip -n "$space" link set eth0 up
        # To nowhere: Ray finds its own address by asking which one would be used to reach the internet.
        ip -n "$space" route add default via 10.77.0.1
    done
}

# Run a command on a host, with what Ray and Tierce need to know and nothing else of ours.
on() {
    local host=$1 name
    shift
    for name in $(compgen -e); do
        case $name in TIERCE_CI_RUN) ;; RAY_* | TIERCE_*) unset "$name" ;; esac
    done
    exec ip netns exec "$(space "$host")" env \
        PATH="$(dirname "$PYTHON"):$PATH" PYTHONPATH="$ROOT" TIERCE_HOME="$STATE/home" \
        RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$STATE/token" RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=1 \
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 RAY_USAGE_STATS_ENABLED=0 \
        RAY_health_check_period_ms=2000 RAY_health_check_timeout_ms=5000 RAY_health_check_failure_threshold=5 \
        RAY_gcs_storage=rocksdb RAY_gcs_storage_path="$STATE/gcs" \
        OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 "$@"
}

# Whether the `ray start` that we started on a host runs: a process of that namespace, so its number is not reused.
ray_runs() {
    [[ -e $STATE/$1.pid ]] && ip netns pids "$(space "$1")" | grep -qx "$(cat "$STATE/$1.pid")"
}

ray_start() {
    local host=$1 log=$STATE/$1.log limit=$((SECONDS + LIMIT_S))
    local -a how=("--address=$HEAD:6379")
    if [[ $host == desk ]]; then how=(--head --port=6379 --include-dashboard=false); fi
    if ray_runs "$host"; then return; fi
    kill_host "$host" # what a Ray that ended has left
    mkdir -p "$STATE/$host"
    rm -f "$STATE/$host/ray_current_cluster" # hosts share /proc: Ray would take another host's raylet for its own
    : >"$log"
    (on "$host" setsid "$PYTHON" -m ray.scripts.scripts start --block "${how[@]}" \
        --node-ip-address="$(address "$host")" --labels="tierce/node=$host" --num-cpus=2 \
        --object-store-memory=100000000 --temp-dir="$STATE/$host" --disable-usage-stats \
        </dev/null >"$log" 2>&1 9>&-) &
    echo $! >"$STATE/$host.pid"
    sleep 1 # until it has entered its namespace
    while ! grep -q "Ray runtime started" "$log"; do
        if ! ray_runs "$host" || ((SECONDS > limit)); then
            tail -n 20 "$log" >&2
            refuse "Ray did not start on $host; its output is in $log"
        fi
        sleep 0.2
    done
}

kill_host() {
    local pids
    while pids=$(ip netns pids "$(space "$1")") && [[ -n $pids ]]; do
        # shellcheck disable=SC2086 # one word for each process
        kill -9 $pids 2>/dev/null || true
        sleep 0.1
    done
    rm -f "$STATE/$1.pid"
}

up() {
    mkdir -p -m 0700 "$STATE"
    if [[ ! -e $STATE/token ]]; then
        (umask 077 && od -An -tx1 -N32 /dev/urandom | tr -d ' \n' >"$STATE/token")
    fi
    wire_up
    local host
    for host in "${HOSTS[@]}"; do ray_start "$host"; done
}

down() {
    local name
    for name in "${HOSTS[@]}"; do
        if ours "$(space "$name")"; then
            kill_host "$name"
            ip netns delete "$(space "$name")"
        fi
    done
    if ours "$WIRE"; then ip netns delete "$WIRE"; fi
    rm -rf "$STATE"
}

command -v ip >/dev/null || refuse "needs the command ip (Debian: apt-get install iproute2)"
[[ $EUID == 0 ]] || refuse "needs root: it makes network namespaces"
verb=${1:-}
case $verb in
up | down | start)
    exec 9>/run/tierce-machines.lock # one at a time
    flock 9
    ;;
esac
case $verb in
up | down) "$verb" ;;
start) need_ours "${2:-}" && ray_start "$2" ;;
exec) need_ours "${2:-}" && on "${@:2}" ;;
cut) need_ours "${2:-}" && ip -n "$WIRE" link set "$2" down ;;
heal) need_ours "${2:-}" && ip -n "$WIRE" link set "$2" up ;;
kill) need_ours "${2:-}" && kill_host "$2" ;;
pids) need_ours "${2:-}" && ip netns pids "$(space "$2")" ;;
*) refuse "usage: netns.sh up|down|start HOST|exec HOST CMD…|cut HOST|heal HOST|kill HOST|pids HOST" ;;
esac
