#!/usr/bin/env bash
# Runs the shipped jobs on real Nomad agents in dev mode, breaks things under traffic, and prints what happened as
# Markdown: nomad-<version>.md is this script's output.
#
#   docs/verified/nomad-run.sh [AGENT-CONFIG...] > output.md
#
# Needs root, ports 4646 and 8080, nomad, curl and python3. In the tasks' chroot HAProxy has to be /usr/sbin/haproxy and the
# sidecar /usr/local/bin/haproxy-nomad-sidecar (chroot_env of AGENT-CONFIG); outside of it they may be elsewhere: HAPROXY and
# SIDECAR. OTHER_HAPROXY is one more HAProxy to run with dynamic servers, at the same path in both.
# SHORT=1 plays only the restarts of HAProxy's group itself.
set -euo pipefail
cd "$(dirname "$0")/../.."

tmp=$(mktemp -d)
agent='' traffic='' stream=''
export HAPROXY=${HAPROXY:-/usr/sbin/haproxy} SIDECAR=${SIDECAR:-/usr/local/bin/haproxy-nomad-sidecar}
export NOMAD_CLI_NO_COLOR=1
trap 'stop_agent; rm -rf "$tmp"' EXIT

start_agent() { # AGENT-CONFIG...
  unset NOMAD_TOKEN
  local configs=("${@/#/-config=}")
  setsid nomad agent -dev "${configs[@]}" >"$tmp/agent.log" 2>&1 &
  agent=$!
  until_true 60 'curl -sf localhost:4646/v1/status/leader | grep -q :'
}

stop_agent() {
  local pid
  for pid in $traffic $stream $agent; do
    kill "$pid" 2>/dev/null && wait "$pid" || :
  done
  agent='' traffic='' stream=''
}

until_true() { # SECONDS CONDITION
  local end=$((SECONDS + $1))
  until eval "$2" >/dev/null 2>&1; do
    ((SECONDS < end)) || { echo "gave up after $1 s: $2" >&2; exit 1; }
    sleep 0.1
  done
}

# === What the reader sees ===

part() { printf '\n## %s\n' "$*"; }

run() { # COMMAND, shown with its output
  printf '\n```console\n$ %s\n' "$1"
  (eval "$1" 2>&1 || :) | shown
  printf '```\n'
}

# No links, and of log lines the time of day.
shown() { sed -E '/^==> View|^$/d; s/^20[0-9-]{8}T([0-9:.]{12})[0-9]*Z/\1/; s/haproxy_nomad_sidecar(::[a-z]+)*: //'; }

sidecar_said_since() { # LINES already seen
  printf '\n```console\n$ nomad alloc logs -stderr -task sidecar -job haproxy | tail -n +%s\n' $(($1 + 1))
  sidecar_log | tail -n +$(($1 + 1)) | shown
  printf '```\n'
}

# === What is asked ===

sidecar_log() { nomad alloc logs -stderr -task sidecar "$(alloc haproxy)"; }

alloc() { # JOB: the newest running allocation
  nomad job allocs -t '{{range .}}{{if eq .DesiredStatus "run"}}{{.CreateIndex}} {{.ID}}{{"\n"}}{{end}}{{end}}' "$1" |
    sort -rn | awk 'NR == 1 { print $2 }'
}

ready() { # the newest sidecar's answer
  curl -s "$(nomad service info -t '{{range .}}{{.CreateIndex}} {{.Address}}:{{.Port}}{{"\n"}}{{end}}' \
    haproxy-nomad-sidecar | sort -rn | awk 'NR == 1 { print $2 }')/ready"
}

# The processes of a task of the job haproxy, from outside of its chroot.
pids() { # TASK
  local of process
  of=$(alloc haproxy)
  for process in /proc/[0-9]*; do
    if grep -zqx "NOMAD_ALLOC_ID=$of" "$process/environ" && grep -zqx "NOMAD_TASK_NAME=$1" "$process/environ"; then
      echo "${process#/proc/}"
    fi
  done 2>/dev/null
}

# Asks HAProxy for / some twenty times a second, for as long as COMMAND and the seconds after it take.
under_traffic() { # SECONDS COMMAND
  local seen
  seen=$(sidecar_log | wc -l)
  while :; do
    printf '%s ' "$(date +%s.%3N)"
    curl -s -m 2 -w ' %{http_code}\n' localhost:8080/ | tr -d '\n' || printf ' 000'
    echo
    sleep 0.03
  done >"$tmp/traffic" 2>/dev/null &
  traffic=$!
  sleep 1
  run "$2"
  sleep "$1"
  kill "$traffic" && wait "$traffic" 2>/dev/null || :
  traffic=''
  printf '\nTraffic: '
  python3 - "$tmp/traffic" <<'P'
import sys, time
rows = [(float(w[0]), w[-1]) for w in map(str.split, open(sys.argv[1])) if len(w) > 1]
failed = sum(code != "200" for _, code in rows)
print(f"{len(rows)} requests, {failed} failed.")
runs = []
for at, code in rows:
    if not runs or runs[-1][1] != code:
        runs.append([at, code, 0])
    runs[-1][2] += 1
for run, after in zip(runs, runs[1:] + [[rows[-1][0]]]):
    if run[1] != "200":
        at = time.strftime("%H:%M:%S", time.gmtime(run[0])) + f"{run[0] % 1:.3f}"[1:]
        what = "without an answer" if run[1] == "000" else f"answered {run[1]}"
        print(f"- from {at}, {after[0] - run[0]:.2f} s: {run[2]} {what}")
P
  sidecar_said_since "$seen"
}

# When each instance that joins while COMMAND runs was registered, was started, and first answered through HAProxy.
joins() { # SECONDS COMMAND
  curl -sN -H "X-Nomad-Token: ${NOMAD_TOKEN:-}" 'localhost:4646/v1/event/stream?topic=Service&index=0' |
    while read -r line; do printf '%s %s\n' "$(date +%s.%3N)" "$line"; done >"$tmp/events" &
  stream=$!
  until_true 5 "test -s $tmp/events"
  under_traffic "$1" "$2"
  kill "$stream" && wait "$stream" 2>/dev/null || :
  stream=''
  printf '\n| instance | registered | task started after | answered through HAProxy after |\n|---|---|---|---|\n'
  awk '$2 == "web" && !seen[$3]++ { print $3, $1 }' "$tmp/traffic" | while read -r id answered; do
    registered=$(grep '"Type":"ServiceRegistration"' "$tmp/events" | grep "\"AllocID\":\"$id" | awk 'END { print $1 }') || continue
    # The stream begins with what was registered before the command.
    awk -v a="$registered" -v b="$(awk 'NR == 1 { print $1 }' "$tmp/traffic")" 'BEGIN { exit a > b ? 0 : 1 }' || continue
    started=$(nomad alloc status -t '{{range .TaskStates}}{{range .Events}}{{if eq .Type "Started"}}{{.Time}}{{end}}{{end}}{{end}}' "$id")
    awk -v i="$id" -v r="$registered" -v s="$started" -v a="$answered" -v t="$(date -u -d "@$registered" +%T.%3N)" \
      'BEGIN { printf "| %s | %s | %.2f s | %.2f s |\n", i, t, s / 1e9 - r, a - r }'
  done
}

# === The story ===

break_things() {
  part "$1: the sidecar is restarted, then killed"
  under_traffic 3 'nomad alloc restart -task sidecar $(alloc haproxy)'
  under_traffic 4 'kill -9 $(pids sidecar)'
  part "$1: HAProxy is reloaded, restarted, then killed"
  under_traffic 4 'nomad alloc signal -s SIGUSR2 -task haproxy $(alloc haproxy)'
  under_traffic 4 'nomad alloc restart -task haproxy $(alloc haproxy)'
  under_traffic 5 'kill -9 $(pids haproxy)'
}

# The sidecar stands still, so whatever is served then HAProxy has from the file.
state_file() {
  part "$1: HAProxy starts with the state file, and without one that is old"
  run 'kill -STOP $(pids sidecar)'
  under_traffic 4 'kill -9 $(pids haproxy)'
  run 'nomad alloc exec -task haproxy $(alloc haproxy) sh -c '\''touch -d "2 minutes ago" $NOMAD_ALLOC_DIR/haproxy.state'\'
  under_traffic 4 'kill -9 $(pids haproxy)'
  run 'nomad alloc exec -task haproxy $(alloc haproxy) sh -c '\''ls $NOMAD_ALLOC_DIR/haproxy.state'\'
  under_traffic 4 'kill -CONT $(pids sidecar)'
}

applications() {
  run 'nomad job run -detach nomad-jobs/example-app.nomad.hcl'
  run 'nomad job run -detach -var service=api -var count=1 nomad-jobs/example-app.nomad.hcl'
  until_true 300 '[[ $(nomad job status web | grep -c "run  *running") == 2 ]]'
}

balancer() { # VARIABLES
  run "nomad job run ${1:+$1 }nomad-jobs/haproxy.nomad.hcl | tail -n 8"
  sidecar_said_since 0
  run 'ready'
}

# What befalls HAProxy's group itself, in each way to run it.

acls_off() { # AGENT-CONFIG...
  part 'ACLs off: first start'
  start_agent "$@"
  applications
  balancer ''
  run 'curl -s localhost:8080/ localhost:8080/ localhost:8080/api/; curl -s -H "Host: api.example" localhost:8080/'
  break_things 'ACLs off'
  state_file 'ACLs off'
}

acls_on() { # AGENT-CONFIG...
  part 'ACLs on: a workload identity without any policy'
  echo 'acl { enabled = true }' >"$tmp/acl.hcl"
  start_agent "$@" "$tmp/acl.hcl"
  NOMAD_TOKEN=$(nomad acl bootstrap -t '{{.SecretID}}')
  export NOMAD_TOKEN
  applications
  balancer ''
  run 'curl -s localhost:8080/ localhost:8080/api/'
  break_things 'ACLs on, no policy'
  state_file 'ACLs on, no policy'
}

raw_exec() { # AGENT-CONFIG...
  part 'The driver raw_exec, ACLs off'
  start_agent "$@"
  applications
  balancer '-var driver=raw_exec -var haproxy_binary=$HAPROXY -var sidecar_binary=$SIDECAR'
  run 'curl -s localhost:8080/ localhost:8080/api/'
  break_things 'raw_exec'
  state_file 'raw_exec'
}

part 'Versions'
run 'nomad version | head -n 2'
run '$HAPROXY -v | head -n 1'
run '$SIDECAR --version; git log -1 --format=%h -- src Cargo.lock'

if [[ -n ${SHORT:-} ]]; then
  acls_off "$@"
  stop_agent
  acls_on "$@"
  stop_agent
  raw_exec "$@"
  exit
fi

acls_off "$@"

part 'ACLs off: the application is scaled, replaced and stopped'
joins 12 'nomad job scale -detach web 4'
under_traffic 12 'nomad job scale -detach web 2'
joins 60 "sed 's/memory = 64/memory = 65/' nomad-jobs/example-app.nomad.hcl | nomad job run -detach -"
joins 12 'nomad job restart -yes -reschedule web | tail -n 2'
under_traffic 8 'nomad job stop -detach api'
run 'curl -s -o /dev/null -w "%{http_code}\n" localhost:8080/api/'

part 'ACLs off: a new group that cannot become ready does not replace the old one'
run 'nomad job run -detach -var canaries=1 -var http_port=0 -var '\''sidecar_args=["--haproxy-socket=/nowhere"]'\'' nomad-jobs/haproxy.nomad.hcl'
until_true 60 'ready | grep -q nowhere'
run 'sleep 20; ready; nomad job status haproxy | grep -A 3 ^Deployed'
run 'curl -s localhost:8080/'
run 'nomad job run -var canaries=1 -var http_port=0 nomad-jobs/haproxy.nomad.hcl | tail -n 8'
run 'ready'
stop_agent

acls_on "$@"
joins 12 'nomad job scale -detach web 4'
under_traffic 12 'nomad job scale -detach web 2'

part 'ACLs on: with the policy for the event stream'
seen=$(sidecar_log | wc -l)
run 'nomad acl policy apply -namespace default -job haproxy -group haproxy -task sidecar haproxy-nomad-sidecar nomad-jobs/event-stream.policy.hcl'
until_true 90 "sidecar_log | tail -n +$((seen + 1)) | grep -q 'by its event stream'"
sidecar_said_since "$seen"
joins 12 'nomad job scale -detach web 4'
under_traffic 12 'nomad job scale -detach web 2'
break_things 'ACLs on, policy'

part 'ACLs on: the policy is taken away'
under_traffic 60 'nomad acl policy delete haproxy-nomad-sidecar'
joins 12 'nomad job scale -detach web 3'
stop_agent

raw_exec "$@"

if [[ -n ${OTHER_HAPROXY:-} ]]; then
  stop_agent
  part 'Dynamic servers, ACLs off'
  run '$OTHER_HAPROXY -v | head -n 1'
  start_agent "$@"
  applications
  balancer '-var haproxy_config=nomad-jobs/haproxy-dynamic.cfg -var haproxy_binary=$OTHER_HAPROXY'
  run 'curl -s localhost:8080/ localhost:8080/api/'
  break_things 'Dynamic servers'
  joins 12 'nomad job scale -detach web 4'
  under_traffic 12 'nomad job scale -detach web 1'
fi
