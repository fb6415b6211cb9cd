#!/usr/bin/env python3
"""Whole services at runtime: backends, servers and routes of two namespaces, on real Nomad agents with ACLs, by a HAProxy 3.4
whose configuration has none of them.

    docs/verified/zero-touch-run.py made [STORY...] > output.md

zero-touch.md has this script's output. One server and the client a, the shipped jobs with the driver raw_exec, the sidecar with
its workload identity and a policy that reads both namespaces. It ends with 1 when a claim did not hold or a request failed that
should not have. What it needs is in lab.py, and curl and openssl.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import time

import lab
from lab import (EXAMPLES, PUBLIC, ROOT, SIDECAR, allocs, ask, deployment_of, job, main, nomad, note, out, problems, run,
                 run_haproxy, settled, story, until, witness)

TLS, TCP, OWN = PUBLIC + 1, PUBLIC + 2, PUBLIC + 3
LINGER = 20.0

# What the operator adds to haproxy-zero-touch.cfg, which ends within its frontend: a backend of his own, and frontends for TCP.
OPERATORS = f"""
  use_backend legacy if {{ var(txn.host) -m str legacy.example }}

defaults nomad-tcp
  mode tcp
  log global
  option tcplog
  balance roundrobin
  timeout connect 2s
  timeout client 30s
  timeout server 30s

frontend tls from nomad-tcp
  bind 127.0.0.1:{TLS}
  tcp-request inspect-delay 5s
  tcp-request content accept if {{ req.ssl_hello_type 1 }}
  use_backend %[req.ssl_sni,lower,map_str(virt@sni)]

frontend ports from nomad-tcp
  bind 127.0.0.1:{TCP}
  use_backend %[dst_port,map_str(virt@ports)]

backend legacy from nomad
  server own 127.0.0.1:{OWN} check
"""


# === What the page shows ===


def part(title):
    note(f"{time.strftime('%T')} {title}")
    out(f"\n### {title}")


def shows(*commands):
    """Commands of the shell, as who reads the page would type them."""
    out("\n```console")
    texts = [shows_one(command) for command in commands]
    out("```")
    return texts[-1]


def shows_one(command):
    out(f"$ {command}")
    environment = {**os.environ, "NOMAD_ADDR": f"http://127.0.0.1:{lab.SERVER}", "NOMAD_TOKEN": lab.token, "NOMAD_CLI_NO_COLOR": "1",
                   "ALLOC": group()["ID"], "SIDECAR": SIDECAR, "SOCKET": witness.socket}
    result = subprocess.run(["bash", "-c", TOOLS + command], capture_output=True, text=True, env=environment, cwd=witness.directory)
    text = witness.redacted((result.stdout + result.stderr).rstrip("\n"))
    out(text)
    return text


# Short names for what would make the page hard to read.
TOOLS = """
haproxy-nomad-sidecar() { nomad alloc exec -t=false -task sidecar $ALLOC $SIDECAR "$@"; }
haproxy() { printf '%s\\n' "$1" | python3 -c "import socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect('$SOCKET')
connection.sendall(sys.stdin.buffer.read())
while chunk := connection.recv(65536): sys.stdout.write(chunk.decode())" | sed '/^$/d'; }
"""


def claim(text, holds):
    note("    " + ("" if holds else "NOT SO: ") + text)
    out(f"\n{text}" if holds else f"\n**Not so**: {text}")
    if not holds:
        problems.append(f"not so: {text}")


def answer(host, path="/", port=PUBLIC):
    """Status and body."""
    result = subprocess.run(["curl", "-s", "-m", "2", "-w", "\n%{http_code}", "-H", f"Host: {host}", f"http://127.0.0.1:{port}{path}"],
                            capture_output=True, text=True)
    body, _, status = result.stdout.rpartition("\n")
    return status, body.strip()


def answered_by(host, service, path="/", namespace="default", **where):
    def is_answered():
        status, body = answer(host, path, **where)
        return status == "200" and any(alloc["ID"].startswith(body) for alloc in allocs(service, namespace=namespace) if body)
    return is_answered


def group():
    return until("there is a group with HAProxy", lambda: allocs("haproxy"))[-1]


def haproxy_says(command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(witness.socket)
        connection.sendall(command.encode() + b"\n")
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def entries(name):
    return dict(line.split(" ")[1:3] for line in haproxy_says(f"show map {name}").splitlines() if line.startswith("0x"))


def backends():
    return set(haproxy_says("show backend").split()[2:])


def admin(path):
    where = next(row for row in ask("/v1/service/haproxy-nomad-sidecar") if row["AllocID"] == group()["ID"])
    result = subprocess.run(["curl", "-s", "-m", "5", "-H", "Accept: text/plain", "-w", "\n%{http_code}",
                             f"http://{where['Address']}:{where['Port']}{path}"], capture_output=True, text=True)
    text, _, status = result.stdout.rpartition("\n")
    return status, text


# === The stories ===


class ZeroTouch:
    in_order = ["two_tags", "two_namespaces", "paths", "tcp", "claimed", "stopped", "killed", "reloaded", "rolling", "canary",
                "blue_green", "forbidden", "identity", "denied"]

    def __init__(self, cluster):
        self.cluster, self.release = cluster, 1

    def play(self):
        for name in lab.STORIES or self.in_order:
            for again in (True, False):
                try:
                    getattr(self, name)()
                    break
                except lab.TooSlow as fault:
                    note(f"    played again: {fault}")
                    if not again:
                        problems.append(f"{name}: {fault}")

    def job(self, service, *tags, namespace="default", count=2, canaries=0, check="http", **variables):
        self.release += 1
        return job(service, tags, namespace, check, count=count, canaries=canaries, release=self.release, **variables)

    def deploy(self, service, *tags, namespace="default", count=2, **variables):
        nomad(*self.job(service, *tags, namespace=namespace, count=count, **variables))
        until(f"{service} of {namespace} is deployed", settled(service, count, namespace), 240)

    def web_is_there(self):
        if not allocs("web"):
            self.web()

    def web(self):
        self.deploy("web", "haproxy.domain=web.example", count=3)

    # --- what a job brings ---

    def two_tags(self):
        part("A job with two tags")
        until("HAProxy has nothing of the service", lambda: "web" not in backends())
        shows("haproxy 'show backend'", f"curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'Host: web.example' http://127.0.0.1:{PUBLIC}/")
        begin = time.time()
        nomad(*self.job("web", "haproxy.domain=web.example", count=3))
        until("web answers", answered_by("web.example", "web"))
        took = time.time() - begin
        first = min(row[0] for row in witness.saw(begin, r"nomad: web \S+ task: started"))
        shows("grep -o 'tags .*' example-app.nomad.hcl", f"curl -s -H 'Host: web.example' http://127.0.0.1:{PUBLIC}/", "haproxy 'show backend'")
        claim(f"It answered {took:.1f} s after `nomad job run`, {begin + took - first:.1f} s after Nomad had started its first task.", True)
        until("web is deployed", settled("web", 3), 240)
        guids = haproxy_says("dump stats-file")
        claim("The backend has the guid that tells whose it is.", "nomad:web" in guids and "nomad:legacy" not in guids)

    def two_namespaces(self):
        part("The same service name in two namespaces")
        self.deploy("web", "haproxy.domain=shop.example", namespace="shop")
        shows(*(f"curl -s -H 'Host: {host}' http://127.0.0.1:{PUBLIC}/" for host in ("web.example", "shop.example")),
              "haproxy 'show map virt@hosts' | cut -d ' ' -f 2-", explaining("shop/web"))
        claim("Each host is answered by its own namespace.", answered_by("web.example", "web")() and
              answered_by("shop.example", "web", namespace="shop")() and entries("virt@hosts") == {"web.example": "web", "shop.example": "shop.web"})

    def paths(self):
        part("Paths")
        self.deploy("api", "haproxy.domain=web.example", "haproxy.path=/api/")
        self.deploy("status", "haproxy.path=/status/", count=1)
        until("the path leads to api", answered_by("web.example", "api", "/api/1"), 10)
        shows(*(f"curl -s -H 'Host: {host}' http://127.0.0.1:{PUBLIC}{path}" for host, path in
                (("web.example", "/"), ("web.example", "/api/1"), ("shop.example", "/status/"))),
              "haproxy 'show map virt@paths' | cut -d ' ' -f 2-")
        claim("The path of a host leads to `api`, the rest of that host to `web`, the path of all hosts to `status`.",
              answered_by("web.example", "api", "/api/1")() and answered_by("web.example", "web")()
              and answered_by("shop.example", "status", "/status/")() and answered_by("shop.example", "web", "/api/1", namespace="shop")())

    def tcp(self):
        part("TCP, by the server name of TLS and by port")
        key = os.path.join(witness.directory, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", key + ".crt", "-subj", "/CN=db.example"],
                       check=True, capture_output=True)
        self.deploy("db", "haproxy.sni=db.example", "haproxy.backend.profile=nomad-tcp", count=1, check="tcp", server=json.dumps(
            ["openssl", "s_server", "-quiet", "-accept", "$${NOMAD_ADDR_http}", "-key", key, "-cert", key + ".crt", "-www"]))
        self.deploy("queue", f"haproxy.port={TCP}", "haproxy.backend.profile=nomad-tcp", count=1)
        until("the port leads to queue", answered_by("any", "queue", port=TCP), 10)
        fetch = f"curl -sk --resolve '*:{TLS}:127.0.0.1' -o /dev/null -w '%%{{http_code}}\\n' https://%s:{TLS}/"
        text = shows(f"curl -s http://127.0.0.1:{TCP}/", fetch % "unknown.example", fetch % "db.example",
                     "haproxy 'show map virt@sni' | cut -d ' ' -f 2-; haproxy 'show map virt@ports' | cut -d ' ' -f 2-")
        claim("Both are reached, and another server name is not.",
              answered_by("any", "queue", port=TCP)() and text == f"db.example db\n{TCP} queue" and "\n000\n" in lab.told.getvalue())

    # --- who has what ---

    def claimed(self):
        part("One host, two services")
        self.deploy("rival", "haproxy.domain=web.example")
        shows(explaining("rival"), explaining("default/web"), "haproxy-nomad-sidecar status",
              "nomad alloc logs -stderr -task sidecar $ALLOC | grep 'host web.example' | head -n 2 | cut -d ' ' -f 3- | cut -c 1-300")
        claim("The first one has it.", answered_by("web.example", "web")() and entries("virt@hosts")["web.example"] == "web")
        gone = {}
        def act():
            gone["at"] = time.time()
            return run(["job", "stop", "-detach", "web"])()
        story("The service that has the host is stopped: the other one takes over", "web", act,
              lambda: entries("virt@hosts")["web.example"] == "rival", self.until_handed_over)
        shows(explaining("rival"))
        self.web()
        part("The first one returns: who has it now keeps it")
        shows(f"curl -s -H 'Host: web.example' http://127.0.0.1:{PUBLIC}/")
        claim("The host stays where it is.", answered_by("web.example", "rival")())
        nomad("job", "stop", "-detach", "rival")
        until("web has its host again", answered_by("web.example", "web"), 120)

    def until_handed_over(self, begin, failed):
        signals = witness.saw(begin, r"nomad: web \S+ task: killing")
        downs = witness.saw(begin, r"haproxy: web/\S+ is DOWN:")
        bad = [row for row in failed if row.ended < signals[0][0]]
        last = max((row.ended for row in failed), default=begin)
        return (f"from the kill signal at {signals[0][0] - begin:.2f} s until HAProxy has the last server DOWN at "
                f"{downs[-1][0] - begin:.2f} s and the route is handed over; the last failed one ended at {last - begin:.2f} s."), bad

    def stopped(self):
        part(f"A job is stopped: 503 for --backend-linger ({LINGER:.0f} s here), then nothing of it is left")
        self.deploy("brief", "haproxy.domain=brief.example", count=1)
        until("brief answers", answered_by("brief.example", "brief"))
        begin = time.time()
        nomad("job", "stop", "-detach", "brief")
        until("it has ended", lambda: answer("brief.example")[0] == "503")
        ended = time.time()
        claim(f"503 from {ended - begin:.1f} s on; the backend is there, and so is its route.",
              "brief" in backends() and entries("virt@hosts").get("brief.example") == "brief")
        shows("haproxy-nomad-sidecar status | grep -A 3 brief")
        until("the backend is removed", lambda: "brief" not in backends(), 60)
        claim(f"The backend was removed {time.time() - ended:.1f} s later, its route with it.", "brief.example" not in entries("virt@hosts"))

    # --- HAProxy under load ---

    def killed(self):
        self.everything_is_back("`kill -9` of HAProxy", lambda: self.kill("haproxy"), while_away)

    def reloaded(self):
        self.everything_is_back("Reload of HAProxy", run(["alloc", "signal", "-s", "SIGUSR2", "-task", "haproxy", group()["ID"]]), while_put_back)

    def everything_is_back(self, title, act, allowed):
        self.web_is_there()
        before, began = self.picture(), [0.0]
        def acting():
            began[0] = time.time()
            return act()
        story(title, "web", acting, lambda: witness.saw(began[0], "sidecar: this HAProxy process has everything") and self.picture() == before,
              allowed, lambda begin: [("Backends, servers, routes, and what is published, are what they were.", self.picture() == before)])

    def kill(self, task):
        for path in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                said = open(f"/proc/{path}/environ", "rb").read().split(b"\0") if path.isdigit() else []
                if f"NOMAD_ALLOC_ID={group()['ID']}".encode() in said and f"NOMAD_TASK_NAME={task}".encode() in said:
                    lab.kill_9(int(path))
        return [f"kill -9 ${task.upper()}"]

    def picture(self):
        maps = {name: entries(name) for name in ("virt@hosts", "virt@paths", "virt@sni", "virt@ports")}
        servers = sorted((row[1], row[3], row[5], row[6]) for row in witness.servers())
        stat = sorted(line.split(",")[0] + line.split(",")[17] for line in haproxy_says("show stat -1 2 -1").splitlines()[1:] if line)
        return backends(), maps, servers, stat

    # --- deploys under load ---

    def rolling(self):
        self.web_is_there()
        story("Rolling update of 3 instances, one at a time", "web",
              run(self.job("web", "haproxy.domain=web.example", count=3)), settled("web", 3))

    def canary(self):
        self.web_is_there()
        def act():
            shown = run(self.job("web", "haproxy.domain=web.example", count=3, canaries=1, auto_promote="false"))()
            until("the canary is healthy", lambda: deployment_of("web")["TaskGroups"]["app"]["HealthyAllocs"] >= 1)
            time.sleep(3)
            return shown + run(["deployment", "promote", "-detach", deployment_of("web")["ID"]])()
        story("One canary beside 3 instances, promoted", "web", act, settled("web", 3))

    def blue_green(self):
        self.web_is_there()
        story("Blue and green: 3 canaries beside 3 instances, promoted all at once", "web",
              run(self.job("web", "haproxy.domain=web.example", count=3, canaries=3)), settled("web", 3))

    # --- who may have what ---

    def forbidden(self):
        pass

    def forbidden(self):
        part("A policy file that forbids a host")
        policy = os.path.join(witness.directory, "policy.toml")
        def says(*hosts):
            with open(policy, "w") as file:
                file.write(f'[namespace.shop]\nhosts = {json.dumps(hosts)}\n')
        says("*.shop.example")
        redeploy(*ARGS, f"--policy-file={policy}")
        self.web()
        self.deploy("web", "haproxy.domain=shop.example,www.shop.example", namespace="shop")
        shows("cat policy.toml", *(f"curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'Host: {host}' http://127.0.0.1:{PUBLIC}/" for host in
                                   ("shop.example", "www.shop.example")), explaining("shop/web"))
        refusal = shows("nomad alloc logs -stderr -task sidecar $ALLOC | grep 'not routed' | tail -n 1 | cut -d ' ' -f 3- | cut -c 1-400")
        claim("The forbidden host is refused, the log names the rule, and the other one is served.",
              "hosts" in refusal and "[namespace.shop]" in refusal and answer("shop.example")[0] == "503" and answered_by("www.shop.example", "web", namespace="shop")())
        says("shop.example", "*.shop.example")
        nomad("alloc", "signal", "-s", "SIGHUP", "-task", "sidecar", group()["ID"])
        until("the host is allowed", answered_by("shop.example", "web", namespace="shop"), 20)
        claim("Allowed by the file and SIGHUP, it is served.", True)

    # --- Nomad says no ---

    def identity(self):
        """A workload identity without a policy may read, but not follow the stream."""
        part("The identity's policy has `shop` no more, and the sidecar starts anew")
        self.shop_is_there()
        begin = time.time()
        # Nomad lets a stream that is open go on.
        may_read("default")
        self.kill("sidecar")
        until("it is followed otherwise", lambda: witness.saw(begin, "sidecar: WARN following namespace shop by blocking queries"), 120)
        self.deploy("web", "haproxy.domain=shop.example", namespace="shop", count=3)
        shows(LAST_WARNING, "haproxy-nomad-sidecar status | head -n 3")
        claim("The stream is refused, reading is not: a new instance is in rotation all the same, and `/ready` says 200.", admin("/ready")[0] == "200")
        again = time.time()
        may_read("default", "shop")
        until("it is followed by the stream", lambda: witness.saw(again, "sidecar: following namespace shop by its event stream"), 180)
        claim(f"Given again: followed by the stream {time.time() - again:.0f} s later.", True)
        self.deploy("web", "haproxy.domain=shop.example", namespace="shop")

    def denied(self):
        """A client token may do what its policy says and no more."""
        self.shop_is_there()
        self.reads("default", "shop")
        self.issue()
        redeploy(*ARGS, f"--nomad-token-file={self.token_file()}")
        until("shop is served", answered_by("shop.example", "web", namespace="shop"), 60)
        self.denied_by("A client token instead of the identity, whose policy no longer has `shop`", "default")
        self.denied_by("The policy has `list-jobs` in `shop`, not `read-job`", "default", "shop:list-jobs")
        part("The sidecar starts while `shop` is denied")
        self.reads("default")
        self.kill("sidecar")
        until("it is denied", lambda: "shop was not read yet: nomad" in admin("/ready")[1], 60)
        self.tells_of_shop()
        claim("Nothing was taken out.", answered_by("shop.example", "web", namespace="shop")())
        self.reads("default", "shop")
        until("it is ready", lambda: admin("/ready")[0] == "200", 120)
        claim("Given again: ready.", True)
        part("The token is revoked, and another one written to its file")
        begin = time.time()
        nomad("acl", "token", "delete", self.accessor)
        until("it is refused", lambda: witness.saw(begin, "sidecar: WARN .*HAProxy stays as it is"), 120)
        claim(f"Said after {witness.saw(begin, 'sidecar: WARN .*HAProxy stays')[0][0] - begin:.0f} s.", True)
        self.tells_of_shop()
        claim("Everything is served.", answered_by("shop.example", "web", namespace="shop")() and answered_by("web.example", "web")())
        again = time.time()
        self.issue()
        until("it can be read again", lambda: witness.saw(again, "sidecar: Nomad can be read again"), 120)
        claim(f"The new token was taken up {time.time() - again:.0f} s after it was written.", True)

    def denied_by(self, title, *reads):
        part(title)
        begin = time.time()
        self.reads(*reads)
        until("it is denied", lambda: witness.saw(begin, "sidecar: WARN .*HAProxy stays as it is"), 120)
        nomad("job", "scale", "-detach", "-namespace=shop", "web", "3")
        until("shop has another instance", lambda: len(ask("/v1/service/web?namespace=shop")) == 3, 60)
        time.sleep(3)
        new = max(ask("/v1/service/web?namespace=shop"), key=lambda row: row["CreateIndex"])
        self.tells_of_shop()
        shows(explaining(new["AllocID"][:8]))
        claim("What was served is served; what came since waits.",
              answered_by("shop.example", "web", namespace="shop")() and len(witness.in_rotation("shop.web")) == 2)
        again = time.time()
        self.reads("default", "shop")
        until("it can be read again", lambda: len(witness.in_rotation("shop.web")) == 3, 180)
        claim(f"Given again: the new instance is in rotation {time.time() - again:.0f} s later.", True)
        until("shop is deployed", settled("web", 3, "shop"), 120)
        nomad("job", "scale", "-detach", "-namespace=shop", "web", "2")
        until("shop is scaled", settled("web", 2, "shop"), 120)

    def tells_of_shop(self):
        where = next(row for row in ask("/v1/service/haproxy-nomad-sidecar") if row["AllocID"] == group()["ID"])
        addr = f"http://{where['Address']}:{where['Port']}"
        shows(explaining("shop/web"), "haproxy-nomad-sidecar status | head -n 3", f"curl -s -w '%{{http_code}}\\n' {addr}/ready",
              f"curl -s -H 'Accept: text/plain' {addr}/status | grep '^namespace shop'", LAST_WARNING)

    def shop_is_there(self):
        self.web_is_there()
        if not allocs("web", namespace="shop"):
            self.deploy("web", "haproxy.domain=shop.example", namespace="shop")

    def token_file(self):
        return os.path.join(witness.directory, "reader")

    def reads(self, *namespaces):
        nomad("acl", "policy", "apply", "reader", write_policy(*namespaces))

    def issue(self):
        said = json.loads(nomad("acl", "token", "create", "-json", "-type=client", "-policy=reader"))
        with open(self.token_file(), "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(said["SecretID"])
        self.accessor = said["AccessorID"]


LAST_WARNING = "nomad alloc logs -stderr -task sidecar $ALLOC | grep 'WARN.*shop' | tail -n 1 | cut -d ' ' -f 3- | cut -c 1-400"


def explaining(what):
    return f"haproxy-nomad-sidecar explain {what} | sed -n '1,/^$/p' | grep -v '^  change\\|^$' | cut -c 1-400"


def redeploy(*arguments):
    before = group()["ID"]
    nomad(*run_haproxy(haproxy_config=os.path.join(witness.directory, "haproxy.cfg"), sidecar_args=json.dumps(arguments)))
    until("the group with HAProxy is deployed", lambda: deployment_of("haproxy")["Status"] == "successful" and group()["ID"] != before, 240)
    witness.attach(group())


# As in survival-run.py: a HAProxy that stands still for that long is noticed, and filled in one batch.
PUT_BACK, START = 0.25 + 0.75, 1.0


def while_put_back(begin, failed):
    sent = [row.at for row in failed]
    lasted = max(sent, default=0) - min(sent, default=0)
    bad = [row for row in failed if row.outcome != "503 by HAProxy"] if lasted <= PUT_BACK else failed
    return f"what comes while the new process has no backends: {lasted:.2f} s (at most {PUT_BACK:.2f} s).", bad


def while_away(begin, failed):
    started = witness.saw(begin, r"nomad: haproxy \S+ task: started")[-1][0]
    last = max((row.at for row in failed), default=started)
    bad = [row for row in failed if row.at > started + START + PUT_BACK]
    return (f"what was in flight, and what comes until Nomad has started HAProxy again at {started - begin:.2f} s and it is filled: "
            f"{last - started:.2f} s later (at most {START + PUT_BACK:.2f} s)."), bad


def tell(cluster):
    config = os.path.join(witness.directory, "haproxy.cfg")
    with open(os.path.join(ROOT, lab.CONFIG)) as file:
        shipped = file.read()
    with open(config, "w") as file:
        file.write(shipped.rstrip("\n") + OPERATORS)
    nomad("namespace", "apply", "shop")
    may_read("default", "shop")
    own = subprocess.Popen([f"{EXAMPLES}/toy-web", "--listen", f"127.0.0.1:{OWN}", "--name", "legacy"], stdout=subprocess.DEVNULL)
    try:
        nomad(*run_haproxy(haproxy_config=config, sidecar_args=json.dumps(ARGS)))
        witness.attach(until("the group with HAProxy runs", lambda: allocs("haproxy"))[0])
        until("it is ready", lambda: admin("/ready")[0] == "200")
        if os.environ.get("PAUSE"):
            note(witness.directory, lab.token)
            time.sleep(100000)
        ZeroTouch(cluster).play()
    finally:
        own.kill()


ARGS = json.loads(os.environ.get("MORE_ARGS", "[]")) + ["--namespaces=default,shop", "--backend-profiles=nomad,nomad-tcp", f"--backend-linger={LINGER:.0f}s"]


def may_read(*namespaces):
    nomad("acl", "policy", "apply", "-namespace", "default", "-job", "haproxy", "-group", "haproxy", "-task", "sidecar", "sidecar",
          write_policy(*namespaces))


def write_policy(*namespaces):
    """`shop:list-jobs` is another capability there."""
    path = os.path.join(witness.directory, "reads.policy.hcl")
    with open(path, "w") as file:
        for namespace in namespaces:
            name, _, capability = namespace.partition(":")
            file.write(f'namespace "{name}" {{\n  capabilities = ["{capability or "read-job"}"]\n}}\n')
    return path


main(tell, heartbeat="10s", acl=True)
