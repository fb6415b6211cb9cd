#!/usr/bin/env python3
"""From a registration in Nomad to *applied* in HAProxy, without an ACL policy and with the one for the event stream.

    docs/verified/latency-run.py [TRIALS] > output.md

latency.md has this script's output. Needs root, nomad on the PATH, HAProxy at /usr/sbin/haproxy (or HAPROXY) and the
sidecar at /usr/local/bin/haproxy-nomad-sidecar (or SIDECAR). For each mode a `nomad agent -dev` with ACLs on runs the shipped
job with the driver raw_exec, so that the sidecar has the identity of its task and the socket of the Task API, and a job whose
count grows by one in each trial.

Registered is when a plain reader of Nomad's event stream, with the management token, has the line of the registration, or
the sidecar has heard of it, whichever is first. Nomad publishes it a moment before a read shows it. Applied is when the sidecar has logged so: HAProxy has acknowledged the
last command and the server was read back.
"""

import contextlib
import datetime
import glob
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

TRIALS = int(sys.argv[1]) if len(sys.argv) > 1 else 30
HAPROXY = os.environ.get("HAPROXY", "/usr/sbin/haproxy")
SIDECAR = os.environ.get("SIDECAR", "/usr/local/bin/haproxy-nomad-sidecar")
JOBS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../nomad-jobs")
SERVICE = "web"
# What the sidecar says of how it follows, with the policy and without.
BY_THE_STREAM = "following namespace default by its event stream"
WITHOUT = "following namespace default by "


def until(what, condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"gave up after {seconds} s: {what}")
        time.sleep(0.1)
    return found


def said(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


class Nomad:
    """A `nomad agent -dev` with ACLs on, and its management token."""

    def __init__(self, directory):
        ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        http, rpc, serf = (port.getsockname()[1] for port in ports)
        for port in ports:
            port.close()
        config = {
            "bind_addr": "127.0.0.1",
            "data_dir": directory,
            "disable_update_check": True,
            "ports": {"http": http, "rpc": rpc, "serf": serf},
            "acl": {"enabled": True},
            "plugin": {"raw_exec": {"config": {"enabled": True}}},
            # They ask the network, which takes long where there is none.
            "client": {"options": {"fingerprint.denylist": "env_aws,env_gce,env_azure,env_digitalocean,consul,vault"}},
        }
        path = os.path.join(directory, "agent.json")
        with open(path, "w") as file:
            json.dump(config, file)
        log = open(os.path.join(directory, "agent.log"), "w")
        self.directory = directory
        self.agent = subprocess.Popen(["nomad", "agent", "-dev", "-config", path], stdout=log, stderr=log)
        self.address = f"http://127.0.0.1:{http}"
        self.token = ""
        self.token = until("Nomad has a leader", self.bootstrap)["SecretID"]
        until("the node is ready", lambda: any(node["Status"] == "ready" for node in self.ask("GET", "/v1/nodes")))

    def bootstrap(self):
        with contextlib.suppress(OSError):
            return self.ask("PUT", "/v1/acl/bootstrap")

    def request(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"X-Nomad-Token": self.token}, method=method)
        return urllib.request.urlopen(request)

    def ask(self, method, path, body=None):
        with self.request(method, path, body) as answer:
            return json.loads(answer.read() or "null")

    def command(self, *arguments):
        environment = {**os.environ, "NOMAD_ADDR": self.address, "NOMAD_TOKEN": self.token}
        result = subprocess.run(["nomad", *arguments], env=environment, capture_output=True, text=True)
        if result.returncode:
            sys.exit(f"nomad {' '.join(arguments)}: {result.stdout}{result.stderr}")

    def run_service(self, count):
        group = {
            "Name": "app",
            "Count": count,
            "Networks": [{"DynamicPorts": [{"Label": "http"}]}],
            "Services": [
                {"Name": SERVICE, "PortLabel": "http", "Provider": "nomad", "Tags": ["haproxy.enable=true"]}
            ],
            "Tasks": [
                {
                    "Name": "app",
                    "Driver": "raw_exec",
                    "Config": {"command": "/bin/sleep", "args": ["3600"]},
                    "Resources": {"CPU": 1, "MemoryMB": 10},
                }
            ],
        }
        job = {"ID": SERVICE, "Name": SERVICE, "Type": "service", "Datacenters": ["dc1"], "TaskGroups": [group]}
        self.ask("PUT", "/v1/jobs", {"Job": job})

    def log_of_the_sidecar(self):
        paths = glob.glob(f"{self.directory}/alloc/*/alloc/logs/sidecar.stderr.0")
        return open(paths[0]).read().splitlines() if paths else []

    def stop(self):
        # An agent in dev mode ends its tasks when it is interrupted.
        self.agent.send_signal(signal.SIGINT)
        self.agent.wait()


class Reader:
    """When each registration of the service was seen on the event stream: by a process of its own, before its turn."""

    def __init__(self, nomad):
        self.seen = {}
        self.found = multiprocessing.Queue()
        multiprocessing.Process(target=self.read, args=(nomad,), daemon=True).start()

    def read(self, nomad):
        os.nice(-15)
        with contextlib.suppress(OSError):
            for line in nomad.request("GET", "/v1/event/stream?topic=Service"):
                at = time.time()
                for event in json.loads(line or "{}").get("Events") or []:
                    if event["Type"] == "ServiceRegistration" and SERVICE in event["FilterKeys"]:
                        self.found.put((event["Key"], at))

    def count(self):
        while not self.found.empty():
            key, at = self.found.get()
            self.seen.setdefault(key, at)
        return len(self.seen)


def applied(nomad):
    """For each time that the sidecar has said so: when, and how long after it had heard. Seconds."""
    found = []
    for line in nomad.log_of_the_sidecar():
        if took := re.search(rf" applied backend={SERVICE} .* took=([0-9.]+)(µs|ms|s)$", line):
            at = datetime.datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp()
            found.append((at, float(took[1]) * {"µs": 1e-6, "ms": 1e-3, "s": 1}[took[2]]))
    return found


def measure(policy):
    """The milliseconds of each trial, and how the sidecar says that it follows."""
    directory = tempfile.mkdtemp()
    nomad = Nomad(directory)
    try:
        if policy:
            rules = os.path.join(JOBS, "event-stream.policy.hcl")
            nomad.command("acl", "policy", "apply", "-namespace", "default", "-job", "haproxy", "stream", rules)
        variables = {"driver": "raw_exec", "haproxy_binary": HAPROXY, "sidecar_binary": SIDECAR, "http_port": 0}
        variables["haproxy_config"] = os.path.join(JOBS, "haproxy-slots.cfg")
        flags = [f"-var={name}={value}" for name, value in variables.items()]
        nomad.command("job", "run", "-detach", *flags, os.path.join(JOBS, "haproxy.nomad.hcl"))
        wanted = BY_THE_STREAM if policy else WITHOUT
        follows = lambda: [line for line in nomad.log_of_the_sidecar() if wanted in line]
        how = until(f"the sidecar says: {wanted}", follows)[0]
        if not policy and BY_THE_STREAM in how:
            sys.exit("it has the event stream without a policy")
        until("the sidecar is ready", lambda: any(": ready" in line for line in nomad.log_of_the_sidecar()))
        reader = Reader(nomad)
        time.sleep(1)
        took = []
        for count in range(1, TRIALS + 2):
            before = len(applied(nomad))
            nomad.run_service(count)
            until("it is registered", lambda: reader.count() == count)
            until("it is applied", lambda: len(applied(nomad)) > before)
            at, ago = applied(nomad)[before]
            # The sidecar may have heard of it before the reader.
            registered = min(max(reader.seen.values()), at - ago)
            took.append((at - registered) * 1000)
            time.sleep(random.uniform(0.3, 1.3))
        # The first trial is the first registration of the service at all.
        return took[1:], took[0], how
    finally:
        nomad.stop()
        shutil.rmtree(directory, ignore_errors=True)


def main():
    print(f"- {said('nomad', 'version').splitlines()[0]}")
    print(f"- {said(HAPROXY, '-v').splitlines()[0]}")
    commit = said("git", "-C", JOBS, "log", "-1", "--format=%h", "--", "../src", "../Cargo.lock")
    print(f"- {said(SIDECAR, '--version')}, {commit}\n")
    rows = []
    for mode, policy in [("blocking queries, no policy", False), ("event stream, with the policy", True)]:
        took, first, how = measure(policy)
        how = re.sub(r"unix://\S*(/secrets/api.sock)", r"unix://…\1", how.split(": ", 1)[-1])
        print(f"{mode}:\n\n    {how}\n\nMilliseconds: {', '.join(f'{ms:.1f}' for ms in took)}\n")
        rows.append((mode, len(took), statistics.median(took), max(took), first))
    print("| mode | trials | median | worst | the service's first registration |\n|---|---|---|---|---|")
    for mode, trials, median, worst, first in rows:
        print(f"| {mode} | {trials} | {median:.1f} ms | {worst:.1f} ms | {first:.1f} ms |")


main()
