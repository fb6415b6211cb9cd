#!/usr/bin/env python3
"""The ordinary life of a service, and two accidents, on real Nomad agents under load.

    docs/verified/deploys-run.py slots|dynamic [STORY...] > output.md

deploys.md has this script's output. It starts one server and the two clients a and b, each with a data directory of its own, runs the
shipped jobs with the driver raw_exec (HAProxy and the sidecar on a, the application on both), and sends requests at a constant
rate while Nomad is told to do things. It prints what happened and ends with 1 when a request failed that should not have.

Needs root, nomad on the PATH, HAProxy at /usr/sbin/haproxy (or HAPROXY), the sidecar at /usr/local/bin/haproxy-nomad-sidecar
(or SIDECAR), and the examples `toy-web` and `load` in target/debug/examples (or EXAMPLES).
"""

import calendar
import collections
import contextlib
import functools
import glob
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../.."))
HAPROXY = os.environ.get("HAPROXY", "/usr/sbin/haproxy")
SIDECAR = os.environ.get("SIDECAR", "/usr/local/bin/haproxy-nomad-sidecar")
# To see the script fail: ["--hold=0s"]
SIDECAR_ARGS = os.environ.get("SIDECAR_ARGS", "[]")
EXAMPLES = os.environ.get("EXAMPLES", os.path.join(ROOT, "target/debug/examples"))
KIND = sys.argv[1]
STORIES = sys.argv[2:]
RATE = int(os.environ.get("RATE", "40"))

# Each agent's three ports begin here; a client hands out another range to its tasks.
OFFSET = int(os.environ.get("OFFSET", "0"))  # for a second run beside the first
SERVER, CLIENTS, PUBLIC = 14640 + OFFSET, {"a": 15640 + OFFSET, "b": 16640 + OFFSET}, 18080 + OFFSET
HANDED_OUT = {"a": 20000 + OFFSET * 20, "b": 21000 + OFFSET * 20}

# What the job and HAProxy's configuration say; the arithmetic of docs/jobs.md.
SHUTDOWN_DELAY, DRAIN = 8.0, 5.0
LONGEST, BOOT = 2.0, 3.0
# fall 3 × fastinter 250 ms, after the first check that failed, which comes within one `inter`: 1 s for slots, 2 s for
# dynamic servers. A check may take a moment, and so may a loaded machine.
DOWN_WITHIN = {"slots": 1.0, "dynamic": 2.0}[KIND] + 3 * 0.25 + 1.0

note = functools.partial(print, file=sys.stderr, flush=True)


def until(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"gave up after {seconds} s: {what}")
        time.sleep(0.05)
    return found


def ask(path):
    with urllib.request.urlopen(f"http://127.0.0.1:{SERVER}{path}", timeout=10) as answer:
        return json.loads(answer.read())


# === The cluster ===


class Cluster:
    def __init__(self, directory):
        self.directory = directory
        self.agents = {}
        self.start("server", SERVER, {"server": {
            "enabled": True,
            "bootstrap_expect": 1,
            # A lost node is noticed in seconds.
            "min_heartbeat_ttl": "3s",
            "heartbeat_grace": "3s",
        }})
        until("Nomad has a leader", self.has_a_leader)
        self.start_client("a")

    def start(self, name, port, config):
        path = os.path.join(self.directory, name)
        os.makedirs(path, exist_ok=True)
        with open(path + ".json", "w") as file:
            json.dump({
                "name": name,
                "bind_addr": "127.0.0.1",
                "advertise": {kind: "127.0.0.1" for kind in ("http", "rpc", "serf")},
                "data_dir": path,
                "disable_update_check": True,
                "ports": {"http": port, "rpc": port + 1, "serf": port + 2},
                **config,
            }, file)
        log = open(path + ".log", "a")
        # A group of its own: what is killed is the agent, and nothing else.
        self.agents[name] = subprocess.Popen(
            ["nomad", "agent", "-config", path + ".json"], stdout=log, stderr=log, start_new_session=True)

    def start_client(self, name):
        self.start(name, CLIENTS[name], {
            "client": {
                "enabled": True,
                "servers": [f"127.0.0.1:{SERVER + 1}"],
                "network_interface": "lo",
                "cgroup_parent": f"deploys-{name}-{OFFSET}.slice",
                "min_dynamic_port": HANDED_OUT[name],
                "max_dynamic_port": HANDED_OUT[name] + 999,
                # They ask the network, which takes long where there is none.
                "options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"},
            },
            "plugin": [{"raw_exec": [{"config": [{"enabled": True}]}]}],
        })
        until(f"the client {name} is ready", lambda: self.node(name)["Status"] == "ready")

    def has_a_leader(self):
        with contextlib.suppress(OSError):
            return ask("/v1/status/leader")

    def node(self, name):
        nodes = [node for node in ask("/v1/nodes") if node["Name"] == name]
        return max(nodes, key=lambda node: node["ModifyIndex"], default={"Status": "", "ID": ""})

    def kill(self, name):
        self.agents[name].kill()
        self.agents[name].wait()

    def processes(self, name):
        """The processes of all tasks of a client, and what keeps them and their logs."""
        here = f"{self.directory}/{name}/"
        found = set()
        for path in glob.glob("/proc/[0-9]*"):
            with contextlib.suppress(OSError):
                said = open(path + "/environ", errors="replace").read() + open(path + "/cmdline", errors="replace").read()
                files = [os.readlink(file) for file in glob.glob(path + "/fd/*")]
                if here in said or any(file.startswith(here) for file in files):
                    found.add(int(os.path.basename(path)))
        return found - {agent.pid for agent in self.agents.values()} - {os.getpid()}

    def stop(self):
        for name, agent in self.agents.items():
            processes = self.processes(name)
            agent.kill()
            agent.wait()
            for pid in processes:
                kill_9(pid)
        for line in open("/proc/self/mounts"):
            if line.split(" ")[1].startswith(self.directory):
                subprocess.run(["umount", line.split(" ")[1]])


def kill_9(pid):
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


# === What happens, and when ===


class Witness:
    """Collects (time, who, what): Nomad's events, the sidecar's log, HAProxy's log."""

    def __init__(self, cluster):
        self.rows = []
        self.requests = []
        self.known = set()
        self.registered = {}
        threading.Thread(target=self.follow_nomad, daemon=True).start()
        self.directory = cluster.directory
        # The only allocation there is yet.
        self.logs = until("there are logs", lambda: glob.glob(f"{cluster.directory}/a/alloc/*/alloc/logs"))[0]
        for name in ("sidecar.stderr", "haproxy.stdout"):
            until(f"there is {name}", lambda: os.path.exists(f"{self.logs}/{name}.0"))
        self.socket = os.path.join(os.path.dirname(self.logs), "haproxy.sock")
        threading.Thread(target=self.follow_log, args=(f"{self.logs}/sidecar.stderr", self.sidecar_said), daemon=True).start()
        threading.Thread(target=self.follow_log, args=(f"{self.logs}/haproxy.stdout", self.haproxy_said), daemon=True).start()

    def add(self, at, who, what):
        self.rows.append((at, who, what))

    def follow_nomad(self):
        topics = "topic=Service&topic=Allocation&topic=Node&topic=Deployment"
        stream = urllib.request.urlopen(f"http://127.0.0.1:{SERVER}/v1/event/stream?{topics}&index=0", timeout=600)
        for line in stream:
            at = time.time()
            for event in json.loads(line).get("Events") or []:
                self.nomad_said(at, event)

    def nomad_said(self, at, event):
        payload = event["Payload"]
        if event["Topic"] == "Service":
            service = payload["Service"]
            alloc = f"{service['JobID']} {service['AllocID'][:8]}"
            if event["Type"] != "ServiceRegistration":
                self.registered.pop(service["ID"], None)
                self.add(at, "nomad", f"{alloc} deregistered" + (
                    "" if event["Type"] == "ServiceDeregistration" else f" ({event['Type']})"))
            else:
                known = self.registered.get(service["ID"])
                tags = " ".join(tag for tag in service["Tags"] if "canary" in tag)
                what = "registered" if known is None else "registered again"
                if known is None or known != service["Tags"]:
                    self.add(at, "nomad", f"{alloc} {what}{', ' + tags if tags else ''}")
                self.registered[service["ID"]] = service["Tags"]
        elif event["Topic"] == "Allocation":
            alloc = payload["Allocation"]
            for task, state in (alloc.get("TaskStates") or {}).items():
                for said in state.get("Events") or []:
                    key = alloc["ID"], task, said["Time"], said["Type"]
                    if key not in self.known and said["Type"] in ("Started", "Killing", "Terminated", "Restart Signaled", "Killed"):
                        self.known.add(key)
                        self.add(said["Time"] / 1e9, "nomad", f"{alloc['JobID']} {alloc['ID'][:8]} task: {said['Type'].lower()}")
            key = alloc["ID"], alloc["ClientStatus"]
            if key not in self.known and alloc["ClientStatus"] == "lost":
                self.add(at, "nomad", f"{alloc['JobID']} {alloc['ID'][:8]} lost")
            self.known.add(key)
        elif event["Topic"] == "Node":
            node = payload["Node"]
            key = "node", node["Name"], node["Status"], node["SchedulingEligibility"]
            if key not in self.known:
                self.known = {k for k in self.known if k[:2] != key[:2]} | {key}
                self.add(at, "nomad", f"node {node['Name']} {node['Status']}, {node['SchedulingEligibility']}")
        elif event["Topic"] == "Deployment":
            deployment = payload["Deployment"]
            key = deployment["ID"], deployment["Status"]
            if key not in self.known:
                self.known.add(key)
                self.add(at, "nomad", f"{deployment['JobID']} deployment {deployment['Status']}")

    def follow_log(self, path, said):
        number, rest = 0, ""
        file = open(f"{path}.0", errors="replace")
        while True:
            if text := file.read():
                *lines, rest = (rest + text).split("\n")
                for line in lines:
                    said(time.time(), line)
            elif os.path.exists(f"{path}.{number + 1}"):
                number += 1
                file = open(f"{path}.{number}", errors="replace")
            else:
                time.sleep(0.02)

    def sidecar_said(self, at, line):
        if found := re.match(r"(\S+Z)\s+(INFO|WARN|ERROR) \S+: (.*)", line):
            at = parse_time(found[1])
            # Of an allocation's ID the first group is enough, and of a registration's that.
            what = re.sub(r"_nomad-task-([0-9a-f]{8})[0-9a-f-]{28}-[a-z0-9-]+", r"\1", found[3])
            self.add(at, "sidecar", ("" if found[2] == "INFO" else found[2] + " ") + what)
        elif line:
            self.add(at, "sidecar", line)

    def haproxy_said(self, at, line):
        # client [accepted] frontend backend/server timers status …
        if found := re.match(r"\S+ \[[^]]*\] \S+ (\S+/\S+) \S+ (\d+|-1) ", line):
            self.requests.append((at, found[1], int(found[2])))
        # With a reason it is a check's; the others are what the sidecar said.
        elif found := re.search(r"Server (\S+ is (?:UP|DOWN)), reason: ([^,]*)", line):
            self.add(at, "haproxy", f"{found[1]}: {found[2]}")
        elif "has no server available" in line:
            self.add(at, "haproxy", line.strip())

    def since(self, begin):
        return sorted(row for row in list(self.rows) if row[0] >= begin)

    def saw(self, begin, pattern):
        return [row for row in self.since(begin) if re.search(pattern, f"{row[1]}: {row[2]}")]

    def server_at(self, port):
        """HAProxy's name of the server at this port."""
        for cells in self.servers():
            if cells[18] == str(port):
                return f"{cells[1]}/{cells[3]}"

    def in_rotation(self, backend):
        """The ports of the servers that are READY and UP: srv_op_state 2, and nothing but a template's bit in srv_admin_state."""
        return sorted(int(row[18]) for row in self.servers() if row[1] == backend and row[5] == "2" and row[6] in ("0", "4"))

    def servers(self):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket)
            connection.sendall(b"show servers state\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        rows = [line.split(" ") for line in text.splitlines()]
        return [row for row in rows if len(row) > 18 and row[0] != "#"]


def parse_time(text):
    whole, fraction = text.rstrip("Z").split(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + float("0." + fraction)


# === Load ===


class Load:
    """Requests at a constant rate, half of them on kept connections, each of them recorded."""

    running = []

    def __init__(self, service):
        self.clients = []
        for kind in ("keep-alive", "close"):
            records = os.path.join(witness.directory, f"{kind}.jsonl")
            command = [
                f"{EXAMPLES}/load", "--target", f"127.0.0.1:{PUBLIC}", "--host", f"{service}.example", "--kind", kind,
                "--rate", str(RATE // 2), "--longest", str(int(LONGEST * 1000)), "--records", records]
            self.clients.append((subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True), records))
        self.running.append(self)

    def kill(self):
        for process, _ in self.clients:
            process.kill()

    def end(self):
        rows = []
        for process, _ in self.clients:
            process.send_signal(signal.SIGTERM)
        for process, records in self.clients:
            _, fault = process.communicate()
            if process.returncode not in (0, 2):
                sys.exit(f"the load was none: {fault}")
            with open(records) as file:
                rows += [Request(json.loads(line)) for line in file]
            os.remove(records)
        self.running.remove(self)
        return sorted(rows, key=lambda row: row.at)


class Request:
    def __init__(self, row):
        self.at, self.ended = row["at"] / 1000, row["ended"] / 1000
        self.late = (row["took_ms"] - row["lasts_ms"]) / 1000
        self.failed, self.outcome = row["failed"], row["outcome"]


# === The stories ===

told = io.StringIO()
out = functools.partial(print, file=told)
summary = []
problems = []


def nomad(*arguments):
    environment = {**os.environ, "NOMAD_ADDR": f"http://127.0.0.1:{SERVER}", "NOMAD_CLI_NO_COLOR": "1"}
    result = subprocess.run(["nomad", *arguments], env=environment, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        sys.exit(f"nomad {' '.join(arguments)}: {result.stdout}{result.stderr}")


def job(service="web", **variables):
    """The arguments that run the shipped example job."""
    command = [f"{EXAMPLES}/toy-web", "--listen", "$${NOMAD_ADDR_http}", "--name", "$${NOMAD_SHORT_ALLOC_ID}",
               "--boots", "300", "--boots-at-most", str(int(BOOT * 1000))]
    variables = {"service": service, "driver": "raw_exec", "server": json.dumps(command), **variables}
    return ["job", "run", "-detach", *(f"-var={name}={value}" for name, value in variables.items()),
            "nomad-jobs/example-app.nomad.hcl"]


def allocs(service="web", node=None):
    rows = [row for row in ask(f"/v1/job/{service}/allocations")
            if row["DesiredStatus"] == "run" and row["ClientStatus"] == "running"]
    rows = [row for row in rows if node is None or row["NodeName"] == node]
    return sorted(rows, key=lambda row: row["CreateIndex"])


def port_of(alloc):
    return ask(f"/v1/allocation/{alloc['ID']}")["Resources"]["Networks"][0]["DynamicPorts"][0]["Value"]


def settled(service, count):
    """The newest version of the job is deployed, and all its instances are registered and in rotation."""
    def is_settled():
        running, services = allocs(service), ask(f"/v1/service/{service}")
        return (deployment_of(service)["Status"] == "successful"
                and len(running) == count == len(services)
                and witness.in_rotation(service) == sorted(row["Port"] for row in services))
    return is_settled


def deployment_of(service):
    """That of the job's newest version. There is none before Nomad has evaluated it."""
    version = ask(f"/v1/job/{service}")["Version"]
    rows = [row for row in ask(f"/v1/job/{service}/deployments") if row["JobVersion"] == version]
    return max(rows, key=lambda row: row["CreateIndex"], default={"Status": "", "TaskGroups": {"app": {"HealthyAllocs": 0}}})


def story(title, service, act, done, allowed=None):
    """Acts under load until it is done, and tells what happened. `allowed` says what is physically lost, and gives back
    the failed requests that are not."""
    note(f"{time.strftime('%T')} {title}")
    load = Load(service)
    time.sleep(2)
    begin = time.time()
    commands = act()
    until(f"{title}: it is done", done, 240)
    # Whoever is on its way out has gone by then.
    time.sleep(SHUTDOWN_DELAY + 3)
    rows = load.end()
    failed = [row for row in rows if row.failed]
    answered = [row for row in rows if not row.failed]
    late, long = max(row.late for row in answered), sum(row.late > 0.5 for row in answered)

    out(f"\n### {title}\n\n```console", *(f"$ {command}" for command in commands), "```\n", sep="\n")
    out(f"{len(rows)} requests, **{len(failed)} failed**. The slowest took {late:.2f} s more than it was asked to"
        + (f", {long} more than 0.5 s." if long else "."))
    for text in grouped(failed, begin):
        out(f"- {text}")
    verdict, bad = f"{len(failed)} failed" if allowed else "**0 failed**", failed
    if allowed:
        text, bad = allowed(begin, failed)
        out(f"\nPhysically lost: {text}")
    if bad:
        verdict = f"{len(failed)} failed, **{len(bad)} of them should not have**"
        problems.append(f"{title}: {verdict}")
    out("\n```text")
    for at, who, what in witness.since(begin):
        out(f"{at - begin:6.2f}  {who:8} {what}")
    out("```")
    summary.append((title, len(rows), verdict, f"{late:.2f} s"))


def grouped(failed, begin):
    groups = collections.defaultdict(list)
    for row in failed:
        groups[row.outcome].append(row.at - begin)
    return [f"{len(sent)} × {what}, sent {min(sent):.2f} s to {max(sent):.2f} s" for what, sent in groups.items()]


witness = None


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    directory = tempfile.mkdtemp(prefix="deploys", dir="/tmp")
    cluster = Cluster(directory)
    try:
        tell(cluster)
    finally:
        for load in Load.running:
            load.kill()
        if os.environ.get("KEEP") and witness:
            shutil.copytree(witness.logs, os.environ["KEEP"], dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)
        version = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True).stdout.split(" - ")[0].split(" 20")[0]
        print(f"## {version}, {'slots' if KIND == 'slots' else 'dynamic servers'}\n")
        print("| story | requests | result | slowest beyond what was asked |\n|---|---|---|---|")
        for title, count, verdict, late in summary:
            print(f"| {title} | {count} | {verdict} | {late} |")
        print(told.getvalue(), end="")
    for problem in problems:
        note("PROBLEM", problem)
    sys.exit(1 if problems else 0)


def tell(cluster):
    global witness
    config = os.environ.get("CONFIG", f"nomad-jobs/haproxy-{KIND}.cfg")
    nomad("job", "run", "-detach", "-var=driver=raw_exec", f"-var=haproxy_config={config}", f"-var=http_port={PUBLIC}",
          f"-var=haproxy_binary={HAPROXY}", f"-var=sidecar_binary={SIDECAR}", f"-var=sidecar_args={SIDECAR_ARGS}", "nomad-jobs/haproxy.nomad.hcl")
    # HAProxy is on a, because b comes later.
    until("the group with HAProxy runs", lambda: allocs("haproxy"))
    witness = Witness(cluster)
    cluster.start_client("b")
    stories = Stories(cluster)
    stories.deploy("web", 3)
    stories.deploy("api", 1)
    for name in STORIES or stories.in_order:
        getattr(stories, name)()


class Stories:
    """The service web has three instances, api has one."""

    in_order = ["rolling", "promotion", "rollback", "single", "alloc_restart", "alloc_stop", "node_drain", "stop_and_start",
                "client_killed", "client_returns", "instance_killed", "node_lost", "scale_to_zero", "single_restart",
                "single_drain", "single_without"]

    def __init__(self, cluster):
        self.cluster = cluster
        self.release = 1

    def update(self, service="web", count=3, **variables):
        self.release += 1
        return job(service, count=count, release=self.release, **variables)

    def deploy(self, service, count):
        nomad(*self.update(service, count, canaries=0))
        until(f"{service} is deployed", settled(service, count), 240)

    def spread(self):
        """Sees to it that both nodes have instances of web."""
        while not (allocs("web", "a") and allocs("web", "b")):
            self.deploy("web", 3)
            time.sleep(SHUTDOWN_DELAY)

    def rolling(self):
        story("Rolling update of 3 instances, one at a time", "web", run(self.update(canaries=0)), settled("web", 3))

    def promotion(self):
        story("One canary beside 3 instances, promoted", "web", lambda: self.canary("promote"), settled("web", 3))

    def rollback(self):
        story("One canary beside 3 instances, rolled back", "web", lambda: self.canary("fail"), settled("web", 3))

    def canary(self, end):
        shown = run(self.update(canaries=1, auto_promote="false"))()
        until("the canary is healthy", lambda: deployment_of("web")["TaskGroups"]["app"]["HealthyAllocs"] >= 1)
        # It takes its share of the requests.
        time.sleep(3)
        return shown + run(["deployment", end, "-detach", deployment_of("web")["ID"]])()

    def single(self):
        story("Update of 1 instance with a canary", "api", run(self.update("api", 1)), settled("api", 1))

    def alloc_restart(self):
        story("`alloc restart` of one of 3", "web", run(["alloc", "restart", allocs()[0]["ID"]]), settled("web", 3))

    def alloc_stop(self):
        stopped = allocs()[0]["ID"]
        story("`alloc stop` of one of 3", "web", run(["alloc", "stop", "-detach", stopped]),
              lambda: settled("web", 3)() and stopped not in [alloc["ID"] for alloc in allocs()])

    def node_drain(self):
        self.spread()
        node = self.cluster.node("b")["ID"]
        story("The node b is drained", "web", run(["node", "drain", "-enable", "-yes", "-detach", node]),
              lambda: settled("web", 3)() and not allocs("web", "b") and not self.cluster.node("b")["Drain"])
        nomad("node", "eligibility", "-enable", node)

    def stop_and_start(self):
        def act():
            shown = run(["job", "stop", "-detach", "web"])()
            time.sleep(3)
            return shown + run(self.update(canaries=0))()
        story("The job is stopped, and started again 3 s later", "web", act, settled("web", 3))

    def client_killed(self):
        self.spread()
        lost = {alloc["ID"] for alloc in allocs("web", "b")}
        def act():
            self.cluster.kill("b")
            return ["kill -9 $CLIENT_B"]
        story("The client of node b is killed; its tasks go on", "web", act,
              lambda: settled("web", 3)() and lost.isdisjoint(alloc["ID"] for alloc in allocs()))

    def client_returns(self):
        def act():
            self.cluster.start_client("b")
            return ["nomad agent -config b.json"]
        story("The client of node b returns, and ends its tasks", "web", act,
              lambda: settled("web", 3)() and not any(is_toy(pid) for pid in self.cluster.processes("b")))

    def instance_killed(self):
        alloc = allocs()[0]
        server = witness.server_at(port_of(alloc))
        def act():
            kill_9(toy_of(alloc))
            return [f"kill -9 $TASK_OF_{alloc['ID'][:8]}"]
        story("`kill -9` of one instance of 3", "web", act, settled("web", 3), lambda *what: at_the_dead(*what, [server]))

    def node_lost(self):
        self.spread()
        lost = allocs("web", "b")
        servers = [witness.server_at(port_of(alloc)) for alloc in lost]
        def act():
            processes = self.cluster.processes("b")
            # The agent first, or it would see its tasks end.
            self.cluster.kill("b")
            for pid in processes:
                kill_9(pid)
            return ["kill -9 $CLIENT_B $TASKS_OF_B"]
        story("Node b is lost, with all that ran on it", "web", act,
              lambda: settled("web", 3)() and {alloc["ID"] for alloc in lost}.isdisjoint(alloc["ID"] for alloc in allocs()),
              lambda *what: at_the_dead(*what, servers))
        self.cluster.start_client("b")

    def scale_to_zero(self):
        def act():
            shown = run(["job", "stop", "-detach", "web"])()
            until("the last instance has ended", lambda: not any(is_toy(pid) for pid in toys("web")))
            time.sleep(3)
            return shown + run(self.update(canaries=0))()
        story("The job is stopped, and started again when its last instance has ended", "web", act, settled("web", 3),
              functools.partial(while_nothing_runs, service="web"))

    def single_restart(self):
        story("`alloc restart` of the only instance", "api", run(["alloc", "restart", allocs("api")[0]["ID"]]),
              settled("api", 1), functools.partial(while_nothing_runs, service="api"))

    def single_drain(self):
        node = allocs("api")[0]["NodeID"]
        if node != self.cluster.node("b")["ID"]:
            # HAProxy stays where it is.
            nomad("node", "eligibility", "-disable", self.cluster.node("a")["ID"])
            self.deploy("api", 1)
            nomad("node", "eligibility", "-enable", self.cluster.node("a")["ID"])
        node = self.cluster.node("b")["ID"]
        story("The node of the only instance is drained", "api", run(["node", "drain", "-enable", "-yes", "-detach", node]),
              lambda: settled("api", 1)() and not allocs("api", "b"),
              functools.partial(while_nothing_runs, service="api"))
        nomad("node", "eligibility", "-enable", node)

    def single_without(self):
        story("Update of 1 instance **without** a canary", "api", run(self.update("api", 1, canaries=0)), settled("api", 1),
              functools.partial(while_nothing_runs, service="api"))


def run(arguments):
    def act():
        nomad(*arguments)
        return ["nomad " + " ".join(shown(argument) for argument in arguments)]
    return act


def shown(argument):
    if argument.startswith(("-var=server=", "-var=driver=", "-var=release=")):
        return "…"
    return argument[:8] if re.fullmatch(r"[0-9a-f]{8}-[0-9a-f-]{27}", argument) else argument


def toys(service):
    for path in glob.glob("/proc/[0-9]*"):
        with contextlib.suppress(OSError):
            environment = open(path + "/environ", "rb").read()
            if f"NOMAD_JOB_ID={service}\0".encode() in environment and witness.directory.encode() in environment:
                yield int(os.path.basename(path))


def toy_of(alloc):
    for pid in toys(alloc["JobID"]):
        with contextlib.suppress(OSError):
            if is_toy(pid) and alloc["ID"].encode() in open(f"/proc/{pid}/environ", "rb").read():
                return pid
    sys.exit(f"{alloc['ID']} has no process")


def is_toy(pid):
    with contextlib.suppress(OSError):
        return os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "toy-web"


# === What is physically lost ===


def while_nothing_runs(begin, failed, service):
    """From the kill signal on, until a server is UP again."""
    saw = functools.partial(witness.saw, begin)
    # A restart registers again just before the signal.
    signals = saw(rf"nomad: {service} \S+ task: killing") or saw(rf"nomad: {service} \S+ registered$")
    first = signals[0][0]
    ups = [row[0] for row in saw(rf"haproxy: {service}/\S+ is UP:") if row[0] > first]
    downs = [row[0] for row in saw(rf"haproxy: {service}/\S+ is DOWN:") if row[0] > first]
    if not downs:
        started = saw(rf"nomad: {service} \S+ task: started")[-1][0]
        bad = [row for row in failed if row.ended < first or row.at > started + BOOT + 0.2]
        return (f"from the kill signal at {first - begin:.2f} s until the task, started again at {started - begin:.2f} s, has booted, for "
                f"{BOOT:.0f} s at most. It was back before HAProxy had it DOWN; requests were tried again meanwhile."), bad
    gone = saw(rf"nomad: {service} \S+ deregistered")[-1][0]
    back = min(row[0] for row in saw(rf"nomad: {service} \S+ registered") if row[0] > gone)
    # HAProxy's log is read with a delay.
    bad = [row for row in failed if row.ended < first or row.at > ups[0] + 0.2]
    return (f"from the kill signal at {first - begin:.2f} s until a server is UP at {ups[0] - begin:.2f} s, {ups[0] - first:.2f} s. "
            f"Nothing was registered for {back - gone:.2f} s."), bad


def at_the_dead(begin, failed, servers):
    """What was in flight at servers that died, and what was sent to them until HAProxy had them DOWN."""
    names = ", ".join(servers)
    downs = {row[2].split(" ")[0]: row[0] for row in reversed(witness.saw(begin, r"haproxy: \S+ is DOWN:"))}
    seen = [downs[server] for server in servers if server in downs]
    down = max(seen, default=begin + DOWN_WITHIN)
    if down - begin > DOWN_WITHIN:
        problems.append(f"{names}: DOWN after {down - begin:.2f} s, not within {DOWN_WITHIN} s")
    errors = collections.Counter()
    for at, server, status in witness.requests:
        if at >= begin and (status >= 500 or status == -1):
            errors["there" if server in servers else "elsewhere"] += 1
    if errors["elsewhere"]:
        problems.append(f"{errors['elsewhere']} errors at others than {names}")
    in_flight = [row for row in failed if row.at <= begin + 0.1]
    bad = [row for row in failed if row.ended < begin or row.at > down]
    until_then = f"HAProxy had it DOWN after {down - begin:.2f} s" if seen else "it was back, before HAProxy had it DOWN"
    return (f"{len(in_flight)} in flight at {names} at that moment, {len(failed) - len(in_flight)} sent there until {until_then} "
            f"(at most {DOWN_WITHIN:.2f} s: an interval, fall × fastinter, and 1 s for a slow machine). HAProxy's log has "
            f"{errors['there']} errors there, {errors['elsewhere']} elsewhere."), bad


main()
