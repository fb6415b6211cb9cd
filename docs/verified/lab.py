"""What the scripts beside this have in common: Nomad agents, the shipped jobs on them, load, and a witness who tells what
happened when. A script is called with slots, dynamic or made (backends, too, at runtime: HAProxy 3.4), and with the stories to play; without any it plays all.

It needs root, nomad on the PATH, HAProxy at /usr/sbin/haproxy (or HAPROXY), the sidecar at /usr/local/bin/haproxy-nomad-sidecar
(or SIDECAR), and the examples `toy-web` and `load` in target/debug/examples (or EXAMPLES).
"""

import calendar
import collections
import contextlib
import functools
import glob
import http.client
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

NAME = {"slots": "slots", "dynamic": "dynamic servers", "made": "backends made at runtime"}[KIND]
CONFIG = f"nomad-jobs/haproxy-{'zero-touch' if KIND == 'made' else KIND}.cfg"

# Each agent's three ports begin here; a client hands out another range to its tasks.
OFFSET = int(os.environ.get("OFFSET", "0"))  # for a second run beside the first
SERVER, CLIENTS, PUBLIC = 14640 + OFFSET, {"a": 15640 + OFFSET, "b": 16640 + OFFSET}, 18080 + OFFSET
HANDED_OUT = {"a": 20000 + OFFSET * 20, "b": 21000 + OFFSET * 20}

# What the job and HAProxy's configuration say; the arithmetic of docs/jobs.md.
SHUTDOWN_DELAY, DRAIN = 8.0, 5.0
LONGEST, BOOT = 2.0, 3.0
# fall 3 × fastinter 250 ms, after the first check that failed, which comes within one `inter`: 1 s for slots, 2 s for
# dynamic servers. A check may take a moment, and so may a loaded machine.
DOWN_WITHIN = {"slots": 1.0, "dynamic": 2.0, "made": 2.0}[KIND] + 3 * 0.25 + 1.0

note = functools.partial(print, file=sys.stderr, flush=True)


def until(what, condition, seconds=120):
    """What cannot be asked yet is not so yet."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            if found := condition():
                return found
        if time.monotonic() > end:
            sys.exit(f"gave up after {seconds} s: {what}")
        time.sleep(0.05)


# The management token, once a cluster with ACLs is up.
token = ""


def ask(path, method="GET"):
    with open_nomad(path, 10, method) as answer:
        return json.loads(answer.read())


def open_nomad(path, timeout, method="GET"):
    request = urllib.request.Request(f"http://127.0.0.1:{SERVER}{path}", method=method, headers={"X-Nomad-Token": token})
    return urllib.request.urlopen(request, timeout=timeout)


# === The cluster ===


class Cluster:
    """`heartbeat` is both the shortest time to live of a client's heartbeat and the grace after it."""

    def __init__(self, directory, heartbeat, acl):
        self.directory, self.heartbeat, self.acl = directory, heartbeat, acl
        self.agents = {}
        self.start_server()
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
                "acl": {"enabled": self.acl},
                "ports": {"http": port, "rpc": port + 1, "serf": port + 2},
                **config,
            }, file)
        log = open(path + ".log", "a")
        # A group of its own: what is killed is the agent, and nothing else.
        self.agents[name] = subprocess.Popen(
            ["nomad", "agent", "-config", path + ".json"], stdout=log, stderr=log, start_new_session=True)

    def start_server(self):
        self.start("server", SERVER, {"server": {
            "enabled": True,
            "bootstrap_expect": 1,
            "min_heartbeat_ttl": self.heartbeat,
            "heartbeat_grace": self.heartbeat,
        }})
        until("Nomad has a leader", self.has_a_leader)

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
        global token
        if not ask("/v1/status/leader"):
            return False
        if self.acl and not token:
            token = ask("/v1/acl/bootstrap", "POST")["SecretID"]
        # It may not answer for a while when it is one already.
        return ask("/v1/nodes") is not None

    def node(self, name):
        nodes = [node for node in ask("/v1/nodes") if node["Name"] == name]
        return max(nodes, key=lambda node: node["ModifyIndex"], default={"Status": "", "ID": ""})

    def kill(self, name):
        self.end(name, signal.SIGKILL)

    def end(self, name, number):
        self.agents[name].send_signal(number)
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

    def __init__(self):
        self.rows = []
        self.requests = []
        self.known = set()
        self.registered = {}

    def begin(self, cluster):
        self.directory = cluster.directory
        threading.Thread(target=self.follow_nomad, daemon=True).start()
        threading.Thread(target=self.follow_clock, daemon=True).start()

    def follow_clock(self):
        """A machine that stands still for so long makes requests fail by itself."""
        while True:
            before = time.time()
            time.sleep(0.05)
            if (still := time.time() - before) > 1.5:
                self.add(before, "machine", f"this machine stood still for {still:.1f} s")

    def attach(self, alloc, label="", sidecars=("sidecar",)):
        """Follows the logs of this allocation of the job haproxy, and asks its HAProxy from now on."""
        self.logs = f"{self.directory}/{alloc['NodeName']}/alloc/{alloc['ID']}/alloc/logs"
        self.socket = os.path.join(os.path.dirname(self.logs), "haproxy.sock")
        logs = [(sidecar, "stderr", self.sidecar_said) for sidecar in sidecars] + [("haproxy", "stdout", self.haproxy_said)]
        for task, stream, said in logs:
            path = f"{self.logs}/{task}.{stream}"
            until(f"there is {path}", lambda: os.path.exists(f"{path}.0"))
            threading.Thread(target=self.follow_log, args=(path, functools.partial(said, task + label)), daemon=True).start()

    def add(self, at, who, what):
        self.rows.append((at, who, what))

    def follow_nomad(self):
        topics = "namespace=*&topic=Service&topic=Allocation&topic=Node&topic=Deployment"
        while True:
            # It ends with its server, and is silent while that is.
            with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
                stream = open_nomad(f"/v1/event/stream?{topics}&index=0", 60)
                for line in stream:
                    at = time.time()
                    for event in json.loads(line).get("Events") or []:
                        self.nomad_said(at, event)
            time.sleep(0.1)

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

    def sidecar_said(self, who, at, line):
        if found := re.match(r"(\S+Z)\s+(INFO|WARN|ERROR) \S+: (.*)", line):
            at = parse_time(found[1])
            # Of an allocation's ID the first group is enough, and of a registration's that.
            what = re.sub(r"_nomad-task-([0-9a-f]{8})[0-9a-f-]{28}-[a-z0-9-]+", r"\1", found[3])
            self.add(at, who, ("" if found[2] == "INFO" else found[2] + " ") + self.redacted(what))
        elif line:
            self.add(at, who, self.redacted(line))

    def redacted(self, text):
        text = text.replace(f" on {socket.gethostname()},", " on …,")
        return re.sub(re.escape(self.directory) + r"/\S*/(?=[^/\s]+)", "…/", text)

    def haproxy_said(self, who, at, line):
        # client [accepted] frontend backend/server timers status …
        if found := re.match(r"\S+ \[[^]]*\] \S+ (\S+/\S+) \S+ (\d+|-1) ", line):
            self.requests.append((at, found[1], int(found[2])))
        # With a reason it is a check's; the others are what the sidecar said.
        elif found := re.search(r"Server (\S+ is (?:UP|DOWN)), reason: ([^,]*)", line):
            self.add(at, who, f"{found[1]}: {found[2]}")
        elif "has no server available" in line:
            self.add(at, who, line.strip())

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

    def __init__(self, service, target=f"127.0.0.1:{PUBLIC}"):
        self.clients = []
        for kind in ("keep-alive", "close"):
            records = os.path.join(witness.directory, f"{kind}.jsonl")
            command = [
                f"{EXAMPLES}/load", "--target", target, "--host", f"{service}.example", "--kind", kind,
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
        slow = None
        for process, records in self.clients:
            _, fault = process.communicate()
            if process.returncode not in (0, 2):
                slow = TooSlow(fault.strip())
            with open(records) as file:
                rows += [Request(json.loads(line)) for line in file]
            os.remove(records)
        self.running.remove(self)
        if slow:
            raise slow
        return sorted(rows, key=lambda row: row.at)


class TooSlow(Exception):
    """The machine was, so what was seen means nothing."""


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
    environment = {**os.environ, "NOMAD_ADDR": f"http://127.0.0.1:{SERVER}", "NOMAD_CLI_NO_COLOR": "1", "NOMAD_TOKEN": token}
    result = subprocess.run(["nomad", *arguments], env=environment, capture_output=True, text=True, cwd=ROOT)
    if result.returncode:
        sys.exit(f"nomad {' '.join(arguments)}: {result.stdout}{result.stderr}")
    return result.stdout


def example_app(tags, check):
    """The shipped job with more tags, and with another kind of check for Nomad."""
    if not tags:
        return "nomad-jobs/example-app.nomad.hcl"
    with open(os.path.join(ROOT, "nomad-jobs/example-app.nomad.hcl")) as file:
        text = file.read()
    more = "".join(f'"{tag}", ' for tag in tags)
    path = os.path.join(witness.directory, "example-app.nomad.hcl")
    with open(path, "w") as file:
        file.write(text.replace('["haproxy.enable=true"', f'[{more}"haproxy.enable=true"').replace('type     = "http"', f'type     = "{check}"'))
    return path


def job(service="web", tags=("haproxy.domain=${var.service}.example",) if KIND == "made" else (), namespace="default", check="http", **variables):
    """The arguments that run the shipped example job."""
    command = [f"{EXAMPLES}/toy-web", "--listen", "$${NOMAD_ADDR_http}", "--name", "$${NOMAD_SHORT_ALLOC_ID}",
               "--boots", "300", "--boots-at-most", str(int(BOOT * 1000))]
    variables = {"service": service, "driver": "raw_exec", "server": json.dumps(command), **variables}
    return ["job", "run", "-detach", *([f"-namespace={namespace}"] if namespace != "default" else []),
            *(f"-var={name}={value}" for name, value in variables.items()), example_app(tags, check)]


def allocs(service="web", node=None, namespace="default"):
    rows = [row for row in ask(f"/v1/job/{service}/allocations?namespace={namespace}")
            if row["DesiredStatus"] == "run" and row["ClientStatus"] == "running"]
    rows = [row for row in rows if node is None or row["NodeName"] == node]
    return sorted(rows, key=lambda row: row["CreateIndex"])


def port_of(alloc):
    return ask(f"/v1/allocation/{alloc['ID']}")["Resources"]["Networks"][0]["DynamicPorts"][0]["Value"]


def settled(service, count, namespace="default"):
    """The newest version of the job is deployed, and all its instances are registered and in rotation."""
    backend = service if namespace == "default" else f"{namespace}.{service}"
    def is_settled():
        running, services = allocs(service, namespace=namespace), ask(f"/v1/service/{service}?namespace={namespace}")
        return (deployment_of(service, namespace)["Status"] == "successful"
                and len(running) == count == len(services)
                and witness.in_rotation(backend) == sorted(row["Port"] for row in services))
    return is_settled


def deployment_of(service, namespace="default"):
    """That of the job's newest version. There is none before Nomad has evaluated it."""
    version = ask(f"/v1/job/{service}?namespace={namespace}")["Version"]
    rows = [row for row in ask(f"/v1/job/{service}/deployments?namespace={namespace}") if row["JobVersion"] == version]
    return max(rows, key=lambda row: row["CreateIndex"], default={"Status": "", "TaskGroups": {"app": {"HealthyAllocs": 0}}})


def story(title, service, act, done, allowed=None, claims=None, target=None):
    """Acts under load until it is done, and tells what happened. `allowed` says what is physically lost, and gives back
    the failed requests that are not. `claims` gives what else must be so: (text, whether it is)."""
    note(f"{time.strftime('%T')} {title}")
    load = Load(service, target or f"127.0.0.1:{PUBLIC}")
    time.sleep(2)
    begin = time.time()
    commands = act()
    until(f"{title}: it is done", done, 240)
    # Whoever is on its way out has gone by then.
    time.sleep(SHUTDOWN_DELAY + 3)
    rows = load.end()
    # No story stops one.
    if standstills := witness.saw(begin - 2, "this (machine|sidecar) stood still"):
        raise TooSlow(standstills[0][2])
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
    for text, holds in claims(begin) if claims else ():
        out(f"\n{text}" if holds else f"\n**Not so**: {text}")
        if not holds:
            problems.append(f"{title}: not so: {text}")
    out("\n```text")
    for at, who, what in witness.since(begin):
        out(f"{at - begin:6.2f}  {who:8} {what}")
    out("```")
    note(f"    {len(rows)} requests, {verdict}")
    summary.append((title, len(rows), verdict, f"{late:.2f} s"))


def grouped(failed, begin):
    groups = collections.defaultdict(list)
    for row in failed:
        groups[row.outcome].append(row.at - begin)
    return [f"{len(sent)} × {what}, sent {min(sent):.2f} s to {max(sent):.2f} s" for what, sent in groups.items()]


witness = Witness()


def main(tell, heartbeat, acl=False):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))
    directory = tempfile.mkdtemp(prefix="lab", dir="/tmp")
    cluster = Cluster(directory, heartbeat, acl)
    try:
        witness.begin(cluster)
        tell(cluster)
    finally:
        for load in list(Load.running):
            load.kill()
        if os.environ.get("KEEP"):
            with contextlib.suppress(shutil.Error):
                shutil.copytree(directory, os.environ["KEEP"], dirs_exist_ok=True, ignore=shutil.ignore_patterns(
                    ".*", "secrets", "private", "haproxy.sock*", "raft", "executor.log"))
        cluster.stop()
        shutil.rmtree(directory, ignore_errors=True)
        version = subprocess.run([HAPROXY, "-v"], capture_output=True, text=True).stdout.split(" - ")[0].split(" 20")[0]
        print(f"## {version}, {NAME}\n")
        print("| story | requests | result | slowest beyond what was asked |\n|---|---|---|---|")
        for title, count, verdict, late in summary:
            print(f"| {title} | {count} | {verdict} | {late} |")
        print(told.getvalue(), end="")
    for problem in problems:
        note("PROBLEM", problem)
    sys.exit(1 if problems else 0)


def run_haproxy(**variables):
    """Runs the shipped job, with its HAProxy at a fixed port unless told otherwise."""
    config = os.environ.get("CONFIG", CONFIG)
    variables = {"driver": "raw_exec", "haproxy_config": config, "http_port": PUBLIC, "haproxy_binary": HAPROXY,
                 "sidecar_binary": SIDECAR, "sidecar_args": SIDECAR_ARGS, **variables}
    return ["job", "run", "-detach", *(f"-var={name}={value}" for name, value in variables.items()),
            "nomad-jobs/haproxy.nomad.hcl"]


class Stories:
    """The service web has three instances, api has one."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.release = 1
        self.deploy("web", 3)
        self.deploy("api", 1)

    def play(self):
        for name in STORIES or self.in_order:
            for again in (True, True, False):
                try:
                    getattr(self, name)()
                    break
                except TooSlow as fault:
                    note(f"    played again: {fault}")
                    if not again:
                        problems.append(f"{name}: {fault}")

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


def run(arguments):
    def act():
        nomad(*arguments)
        return ["nomad " + " ".join(shown(argument) for argument in arguments)]
    return act


def shown(argument):
    if argument.startswith(("-var=server=", "-var=driver=", "-var=release=", "-var=haproxy_", "-var=sidecar_")):
        return "…"
    argument = argument.removeprefix(witness.directory + "/")
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

