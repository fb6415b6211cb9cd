#!/usr/bin/env python3
"""The ordinary life of a service, and two accidents, on real Nomad agents under load.

    docs/verified/deploys-run.py slots|dynamic|made [STORY...] > output.md

deploys.md has this script's output. It starts one server and the two clients a and b, each with a data directory of its own, runs the
shipped jobs with the driver raw_exec (HAProxy and the sidecar on a, the application on both), and sends requests at a constant
rate while Nomad is told to do things. It prints what happened and ends with 1 when a request failed that should not have.
What it needs is in lab.py.
"""

import collections
import functools
import time

from lab import (BOOT, DOWN_WITHIN, Stories, allocs, deployment_of, is_toy, kill_9, main, nomad, port_of,
                 problems, run, run_haproxy, settled, story, toy_of, toys, until, witness)


def tell(cluster):
    nomad(*run_haproxy())
    # HAProxy is on a, because b comes later.
    witness.attach(until("the group with HAProxy runs", lambda: allocs("haproxy"))[0])
    cluster.start_client("b")
    Deploys(cluster).play()


class Deploys(Stories):
    in_order = ["rolling", "promotion", "rollback", "single", "alloc_restart", "alloc_stop", "node_drain", "stop_and_start",
                "client_killed", "client_returns", "instance_killed", "node_lost", "scale_to_zero", "single_restart",
                "single_drain", "single_without"]

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


# A lost node is noticed in seconds.
main(tell, heartbeat="3s")
