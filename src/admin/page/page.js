// The page of the sidecar: reads /status when /events says that something has changed, and shows it, what is wrong first.
//
// Names, tags and HAProxy's words come from whoever runs a job. They reach the page as text nodes, made by `el` and by nothing
// else, and without what turns the direction of writing.
"use strict";
(() => {
  const SHOWN = { services: 200, instances: 100, troubles: 60, routes: 300, changes: 60, kept: 400 };
  const SECOND = 1000;
  const HOUR = 3600 * SECOND;
  // Lines of one cause with no more between them are one, and so are those of a server that turns more often than that.
  const TOGETHER = 2 * SECOND;
  const FLAPS = 4;
  const $ = (id) => document.getElementById(id);

  // === Words ===

  const ODD = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;
  const shown = (text) => {
    const all = String(text ?? "");
    const cut = all.length > 300 ? all.slice(0, 300) + "…" : all;
    return cut.replace(ODD, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
  };
  const time = (ms) => {
    if (ms < 1e3) return "under 1 s";
    if (ms < 12e4) return Math.round(ms / 1e3) + " s";
    if (ms < 72e5) return Math.floor(ms / 6e4) + " min";
    if (ms < 1728e5) return Math.floor(ms / 36e5) + " h";
    return Math.floor(ms / 864e5) + " days";
  };
  const count = (n, one, many) => n + " " + (n === 1 ? one : many ?? one + "s");
  const list = (names, most = 4) => {
    const rest = names.length - most;
    return names.slice(0, most).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
  };
  const grouped = (all, keyOf) => {
    const groups = new Map();
    for (const one of all) {
      const key = keyOf(one);
      if (groups.has(key)) groups.get(key).push(one);
      else groups.set(key, [one]);
    }
    return groups;
  };

  // An element with its class, attributes of the page's own, and children; texts become text nodes.
  const el = (tag, options, ...children) => {
    const node = document.createElement(tag);
    const { cls, level, ...attributes } = options ?? {};
    if (cls) node.className = cls;
    if (level) node.dataset.level = level;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    for (const child of children) {
      if (child === null || child === undefined || child === "") continue;
      node.append(child instanceof Node ? child : document.createTextNode(shown(child)));
    }
    return node;
  };
  const set = (id, text) => {
    const node = $(id);
    if (node.textContent !== text) node.textContent = text;
  };

  // Children by their keys: one that looks as before stays, with its focus.
  const keyed = (parent, items) => {
    const before = new Map([...parent.children].map((node) => [node.key, node]));
    let place = parent.firstElementChild;
    for (const item of items) {
      const { key, sig, make, update } = item;
      let node = before.get(key);
      before.delete(key);
      if (!node || (node.sig !== sig && !update)) {
        const made = make();
        if (node) {
          if (place === node) place = node.nextElementSibling;
          node.replaceWith(made);
        }
        node = made;
      } else if (node.sig !== sig) update(node);
      node.item = item;
      node.key = key;
      node.sig = sig;
      if (node === place) place = place.nextElementSibling;
      else parent.insertBefore(node, place);
    }
    for (const node of before.values()) node.remove();
  };

  // === What is known ===

  let picture = null;
  let readAt = 0;
  let checks = new Map();
  let most = SHOWN.services;

  const STAGES = {
    wanted: ["wanted", "note"],
    blocked: ["blocked", "bad"],
    rejected: ["not served", "bad"],
    admitted: ["waits for its check", "warn"],
    in_rotation: ["in rotation", "ok"],
    down: ["DOWN", "bad"],
    draining: ["draining", "note"],
    gone: ["leaving", "note"],
    by_hand: ["out by hand", "warn"],
    held: ["held", "warn"],
    foreign: ["not ours", "note"],
    unserved: ["not served", "note"],
  };
  const ROUTES = { active: "ok", waiting: "note", blocked: "bad", taken: "bad", refused: "bad" };
  const LIFE = ["wanted", "admitted", "in_rotation", "draining", "gone"];
  const PLACE = { blocked: 0, down: 2, by_hand: 2, held: 2 };
  const ADMIN = { ready: "READY", drain: "in drain", maintenance: "in maintenance" };

  const full = (service) => (service.namespace ? service.namespace + "/" : "") + service.name;
  const hindrance = ({ registration, backend }) => registration && backend?.hindrances?.find((one) => one.registration === registration.id);
  const stageOf = (one) => {
    const stage = one.registration?.stage ?? one.server.stage;
    if (one.registration?.rejections?.length) return "rejected";
    return stage === "wanted" && hindrance(one) ? "blocked" : stage;
  };
  const stages = (servers, stage) => servers.filter((one) => one.stage === stage);

  const checkOf = (backend, server) => checks.get(backend)?.words?.[server];
  const wordsOf = (check) =>
    [check.status, check.code ? "code " + check.code : "", check.text ? "“" + shown(check.text) + "”" : ""].filter(Boolean).join(", ");

  // === What is wrong ===

  const HOLDS = {
    mass: "so much was deregistered at once that a guard holds what passes its checks",
    alive: "Nomad says that the allocation still runs",
    frozen: "removals are stopped by the operator",
  };
  const heldBy = (hold) => (typeof hold.by === "string" ? HOLDS[hold.by] : "too few others of its service are UP");

  const wentBack = ({ times, last_ms }) => `its index went back ${time(last_ms)} ago` + (times > 1 ? `, ${times} times since the start` : "");

  const FAILS = "No request is answered: ";
  const troublesOf = (p) => {
    const all = [];
    const tell = (level, where, what, todo) => all.push({ level, where, what, todo: todo ?? "" });
    const { sidecar, nomad, haproxy } = p;
    if (!haproxy.connected && haproxy.problem?.startsWith("this sidecar stood still")) {
      tell("bad", "Sidecar", haproxy.problem.replace("this sidecar", "it") + ", and connects to HAProxy anew.", "HAProxy has served on meanwhile.");
    } else if (!haproxy.connected) {
      tell("bad", "HAProxy", "cannot be used: " + (haproxy.problem ?? "not connected yet"), "It goes on serving as it is, if it runs. It is tried again several times a second, and everything is put back then.");
    }
    for (const one of nomad.namespaces ?? []) {
      if (one.trouble && one.trouble.ended_ms === undefined) {
        tell("bad", "Nomad, " + one.name, `cannot be read for ${time(one.trouble.began_ms)}: ${one.trouble.text}`, "HAProxy stays as it is: nothing is removed, and what registers now is not seen.");
      }
    }
    for (const one of nomad.namespaces ?? []) {
      if (one.went_back?.last_ms < HOUR) tell("note", "Nomad, " + one.name, wentBack(one.went_back) + ": its servers were restored from a snapshot, or made anew.", "Everything was read again, and nothing removed before that. What registered since the snapshot may be missing until it registers again.");
    }
    if (nomad.snapshot) tell("bad", "Nomad", nomad.snapshot, "It is replaced as soon as Nomad answers.");
    if (nomad.unread?.length) tell("warn", "Nomad", "not read yet: " + list(nomad.unread), "What is unread stays as it is.");
    if (sidecar.failure) tell("bad", "Sidecar", "a part of it failed, which is a bug: " + sidecar.failure, "It starts afresh by itself. Please report it with the log.");
    if (sidecar.guards.mass) tell("bad", "Guard", "a mass deregistration is not believed: what passes its checks is held.", "See whether the instances run: nomad node status.");
    if (sidecar.guards.frozen) tell("warn", "Guard", `removals are stopped (--freeze or the freeze file)${sidecar.guards.waiting ? ": " + count(sidecar.guards.waiting, "server waits", "servers wait") + " to be taken out" : ""}.`, "Remove the freeze file to let them go on.");
    else if (sidecar.guards.waiting) tell("note", "Guard", count(sidecar.guards.waiting, "server waits", "servers wait") + " to be taken out.", "");
    if (sidecar.charge === "standby") tell("note", "Sidecar", "only observes: " + (sidecar.standby ?? "another one is in charge"), "It takes over when the other one ends.");
    if (sidecar.charge === "observing") tell("note", "Sidecar", "only observes (--observe): nothing is written to HAProxy.", "");
    for (const service of p.services) ofService(service, p, tell);
    for (const backend of p.backends) ofBackend(backend, tell);
    for (const service of p.services) {
      const rejected = service.registrations.filter((one) => one.rejections?.length);
      for (const [why, { length }] of grouped(rejected, (one) => one.rejections.join("; "))) {
        const whole = length === service.registrations.length;
        tell(whole ? "bad" : "warn", full(service), `${whole ? "not served" : count(length, "instance is", "instances are") + " not served"}: ${why}`, "");
      }
    }
    for (const service of p.services) {
      const wrong = service.registrations.flatMap((one) => one.unrouted ?? []);
      for (const why of new Set(wrong)) tell("bad", full(service), `not routed: ${why}`, "");
    }
    for (const route of p.routes ?? []) {
      const name = `${route.kind} ${route.key}`;
      const where = full({ namespace: route.namespace, name: route.service });
      if (route.state === "blocked") tell("bad", where, `the route ${name} is blocked: ${route.why ?? ""}`, "");
      else if (route.state === "taken") tell("bad", where, `has not the route ${name}: ${route.why ?? ""}`, "");
      else if (route.state === "refused") tell("bad", where, `may not have the route ${name}: ${route.why ?? ""}`, "");
      else if (route.why && route.state === "active") tell("note", where, `${name}: ${route.why}`, "");
    }
    // Whose requests fail comes before what may become of the others.
    const fails = (one) => one.where === "HAProxy" || one.what.startsWith(FAILS);
    const order = (one) => ({ bad: 0, warn: 2, note: 4 })[one.level] + (fails(one) ? 0 : 1);
    return together(all.sort((a, b) => order(a) - order(b)));
  };

  // One cause of many is one line: it must not bury the others.
  const together = (all) => {
    const same = grouped(all, (one) => JSON.stringify([one.level, one.what]));
    return [...same.values()].map(([first, ...rest]) => (rest.length ? { ...first, where: list([first, ...rest].map((one) => one.where), 3) } : first));
  };

  // Where a backend serves several services, one of them may have nobody left.
  const ofService = (service, p, tell) => {
    const served = service.registrations.filter((one) => one.place && !one.rejections?.length);
    const backend = served.length && p.backends.find((one) => one.name === served[0].place.backend);
    const others = backend && backend.wanted > served.length;
    if (others && served.every((one) => one.stage === "down" || one.stage === "by_hand")) {
      tell("bad", full(service), `${FAILS}none of its instances in backend ${backend.name} is in rotation.`, "");
    }
  };

  const ofBackend = (backend, tell) => {
    const { servers } = backend;
    const serves = servers.some((one) => one.up && one.admin === "ready" && one.weight > 0);
    const fails = backend.wanted > 0 && !serves;
    const level = fails ? "bad" : "warn";
    const lost = fails ? FAILS : "";
    const before = [];
    const say = (text, todo) => before.push([text, todo]);
    const names = (some) => list(some.map((one) => one.name + (one.address ? " at " + one.address : "")), 3);
    const again = backend.next_try_ms === undefined ? "" : `It is tried again in ${time(backend.next_try_ms)}.`;
    for (const [text, some] of grouped(backend.hindrances ?? [], (one) => one.text)) say(`${count(some.length, "instance is", "instances are")} blocked: ${text}`, again);
    if (backend.problem) say("the last change failed: " + backend.problem, again);
    if (backend.disabled) say("it is disabled in haproxy.cfg.", "");
    const down = stages(servers, "down");
    if (down.length) {
      const checked = down.filter((one) => checkOf(backend.name, one.name));
      const causes = grouped(checked, (one) => wordsOf(checkOf(backend.name, one.name)));
      const each = [...causes].map(([cause, some]) => (causes.size > 1 ? list(some.map((one) => one.name), 3) + ": " : "") + cause);
      const words = each.length ? ": " + list(each, 3) : ".";
      say(`${down.length} of ${backend.wanted} DOWN (${names(down)}), the check fails${words}`, `For ${time(Math.min(...down.map((one) => one.since_ms)))} or longer. HAProxy checks on, and takes it in as soon as a check has passed.`);
    }
    const late = stages(servers, "admitted");
    if (late.length && (fails || late.some((one) => one.since_ms > 10 * SECOND))) {
      const check = checkOf(backend.name, late[0].name);
      const failed = check && /^(L4|L6|L7(TOUT|RSP|STS)|SOCKERR|PROC)/.test(check.status) && !/OK/.test(check.status);
      say(`${count(late.length, "new instance waits", "new instances wait")} for the first passed check (${names(late)})${failed ? ", which fails so far: " + wordsOf(check) : "."}`, "HAProxy checks on, and takes it in as soon as a check has passed.");
    }
    for (const one of stages(servers, "by_hand").concat(servers.filter((one) => one.by_hand && one.stage !== "by_hand"))) {
      say("an operator's hand: " + (one.by_hand ?? one.name), "It stays so until he undoes it.");
    }
    if (fails && !before.length) say("none of its instances is in rotation.", backend.settled ? "" : "It is being worked on.");
    before.forEach(([text, todo], place) => tell(level, backend.name, (place ? "" : lost) + text, todo));
    const held = stages(servers, "held");
    if (held.length) {
      const left = held[0].hold?.left_ms;
      tell(serves && held.length === servers.filter((one) => one.up).length ? "warn" : "note", backend.name, `${count(held.length, "server is", "servers are")} held without a registration (${names(held)}): ${heldBy(held[0].hold)}.`, left === undefined ? "" : `For ${time(left)} more at most, or until a replacement is UP.`);
    }
  };

  // === The parts of the page ===

  const facts = (p) => {
    const { sidecar, haproxy, nomad } = p;
    const charge = { in_charge: "in charge", standby: "standby", observing: "observing", nobody: "nobody" }[sidecar.charge];
    const ready = sidecar.ready ? "ready" : "not ready: " + list(sidecar.missing ?? []);
    const rows = [
      ["Sidecar", charge, ready, sidecar.ready ? (sidecar.charge === "in_charge" ? "ok" : "warn") : "bad"],
      ["HAProxy", haproxy.connected ? haproxy.version ?? "connected" : "away", haproxy.connected ? "pid " + haproxy.pid : haproxy.problem ?? "not connected yet", haproxy.connected ? "ok" : "bad"],
    ];
    for (const one of nomad.namespaces ?? []) {
      const how = { stream: "followed by events", blocking: "followed by queries", none: "not followed" }[one.followed];
      const trouble = one.trouble && one.trouble.ended_ms === undefined;
      const current = one.current_ms === undefined ? "never read" : `current ${time(one.current_ms)} ago`;
      const fine = [one.index === undefined ? "no index" : "index " + one.index, current];
      if (one.went_back) fine.push(wentBack(one.went_back));
      rows.push([`Nomad, ${one.name}`, trouble ? "cannot be read" : how, fine.join(", "), trouble ? "bad" : one.followed === "none" ? "warn" : "ok"]);
    }
    const more = rows.length - 14;
    if (more > 0) rows.splice(14, more, ["Nomad", `${more} more namespaces`, "", "ok"]);
    keyed($("facts"), rows.map(([name, main, fine, level]) => ({
      key: name,
      sig: [main, fine, level].join("\n"),
      make: () => el("div", { level }, el("dt", null, name), el("dd", null, el("b", null, main), el("small", null, fine))),
    })));
    set("where", location.protocol.startsWith("http") && location.host !== "127.0.0.1:9417" ? ` --admin-listen ${location.hostname}:${location.port || 80}` : "");
    set("about", `Version ${shown(sidecar.version)}, up for ${time(sidecar.up_ms)}.`);
  };

  const verdict = (p, troubles) => {
    const of = (level) => troubles.filter((one) => one.level === level);
    const [bad, warn] = [of("bad"), of("warn")];
    const sum = (what) => p.backends.reduce((all, one) => all + one[what], 0);
    const rotation = `${sum("in_rotation")} of ${count(sum("wanted"), "instance")} in rotation`;
    let text, level;
    const brief = ([first, ...others], word) => {
      const what = shown(first.what.replace(/ \([^)]*\)/, ""));
      const join = /^(HAProxy|Nomad)/.test(first.where) ? "" : ":";
      const more = others.length ? ` — and ${count(others.length, "more " + word)}` : "";
      return `${shown(first.where)}${join} ${what.length > 160 ? what.slice(0, 160) + "…" : what}${more}`;
    };
    if (bad.length) {
      level = "bad";
      text = brief(bad, "problem");
    } else if (!p.sidecar.ready) {
      level = "warn";
      text = "Not ready yet: " + shown(list(p.sidecar.missing ?? []));
    } else if (warn.length) {
      level = "warn";
      text = `${rotation}. ${brief(warn, "thing")}`;
    } else {
      // Nobody to serve may be what was wanted, or an outage.
      level = sum("wanted") ? "ok" : "note";
      text = sum("wanted") ? `All is well: ${rotation}.` : "Nothing is registered to be served.";
    }
    return [text, level];
  };

  const wrong = (troubles) => {
    $("wrong").hidden = !troubles.length;
    const first = troubles.slice(0, SHOWN.troubles);
    const items = first.map((one) => ({
      key: [one.where, one.what.slice(0, 60)].join("\n"),
      sig: [one.level, one.what, one.todo].join("\n"),
      make: () => el("li", { level: one.level }, el("span", { cls: "where" }, one.where), el("p", { cls: "what" }, one.what), one.todo && el("p", { cls: "todo" }, one.todo)),
    }));
    const rest = troubles.length - first.length;
    if (rest > 0) items.push({ key: "", sig: rest, make: () => el("li", { cls: "more" }, `and ${rest} more`) });
    keyed($("wrong-list"), items);
    set("wrong-count", troubles.length > 1 ? String(troubles.length) : "");
  };

  // A service with its registrations, and what is left of others in its backend.
  const unitsOf = (p) => {
    const backends = new Map(p.backends.map((one) => [one.name, { backend: one, servers: new Map(one.servers.map((server) => [server.name, server])) }]));
    const taken = new Set();
    const routes = grouped(p.routes ?? [], (route) => full({ namespace: route.namespace, name: route.service }));
    const units = p.services.map((service) => {
      const own = new Set();
      const instances = service.registrations.map((registration) => {
        const at = registration.place && backends.get(registration.place.backend);
        if (registration.place) own.add(registration.place.backend);
        const server = at?.servers.get(registration.place.server);
        if (server) at.servers.delete(server.name);
        return { registration, server, backend: at?.backend };
      });
      return { key: full(service), service, own, instances, routes: routes.get(full(service)) ?? [] };
    });
    for (const unit of units) {
      for (const name of [...unit.own, unit.service.name, unit.service.name.replaceAll("-", "_"), full(unit.service).replace("/", ".")]) {
        const at = backends.get(name);
        if (!at || taken.has(name) || (unit.instances.length && !unit.own.has(name))) continue;
        taken.add(name);
        unit.own.add(name);
        for (const server of at.servers.values()) unit.instances.push({ server, backend: at.backend });
      }
    }
    for (const [name, at] of backends) {
      if (taken.has(name)) continue;
      const instances = [...at.servers.values()].map((server) => ({ server, backend: at.backend }));
      units.push({ key: "backend " + name, service: { namespace: "", name }, own: new Set([name]), instances, routes: [] });
    }
    for (const unit of units) {
      unit.counts = new Map();
      for (const one of unit.instances) {
        const stage = stageOf(one);
        unit.counts.set(stage, (unit.counts.get(stage) ?? 0) + 1);
      }
      const served = unit.instances.filter((one) => one.registration && (one.registration.enabled || one.registration.rejections?.length));
      unit.wanted = served.length;
      unit.fine = unit.counts.get("in_rotation") ?? 0;
      unit.backends = [...unit.own].map((name) => backends.get(name)?.backend).filter(Boolean);
      const odd = ["down", "by_hand", "held", "admitted", "blocked", "rejected"].some((stage) => unit.counts.has(stage)) || unit.backends.some((one) => one.problem || one.hindrances?.length);
      unit.unrouted = unit.routes.filter((one) => ROUTES[one.state] === "bad").length;
      const serves = unit.instances.some((one) => one.server?.up && one.server.admin === "ready");
      unit.level = unit.wanted > 0 && !serves ? "bad" : odd || unit.unrouted || unit.fine < unit.wanted ? "warn" : "ok";
    }
    const order = { bad: 0, warn: 1, ok: 2 };
    return units.sort((a, b) => order[a.level] - order[b.level] || (a.key < b.key ? -1 : 1));
  };

  // What can be searched for, made when it is.
  const hay = (unit) =>
    unit.hay ??= [unit.key, ...unit.own, ...unit.instances.flatMap(({ registration, server }) => [registration?.id, registration?.allocation, registration?.job, registration?.address, registration?.stage, server?.name, server?.address, server?.registration, ...(registration?.tags ?? [])])].join("\n").toLowerCase();

  let units = {};
  const services = (p) => {
    const wish = $("filter").value.trim().toLowerCase();
    if (units.of !== p) units = { of: p, all: unitsOf(p) };
    const { all } = units;
    const found = wish ? all.filter((unit) => hay(unit).includes(wish)) : all;
    const then = p.haproxy.connected ? "" : ", as HAProxy was seen last";
    set("services-count", (wish ? `${found.length} of ${all.length}` : String(all.length)) + then);
    const open = new Set([...$("services").children].filter((node) => node.open).map((node) => node.key));
    keyed($("services"), found.slice(0, most).map((unit) => {
      const closed = JSON.stringify([unit.level, unit.fine, unit.wanted, [...unit.counts], [...unit.own], unit.unrouted, unit.backends.map((one) => one.slots?.free)]);
      // What is opened later shows what is known then.
      const update = (node) => {
        node.firstElementChild.replaceChildren(...summary(unit));
        if (node.open) node.lastElementChild.replaceChildren(...body(unit));
      };
      return {
        unit,
        key: unit.key,
        // Who is looked at is drawn anew each time: times go on.
        sig: open.has(unit.key) ? closed + performance.now() : closed,
        make: () => {
          const node = el("details", { cls: "service" }, el("summary"), el("div", { cls: "body" }));
          node.addEventListener("toggle", () => {
            node.lastElementChild.replaceChildren(...(node.open ? body(node.item.unit) : []));
            if (node.open) ask(node.item.unit.backends.map((one) => one.name));
          });
          update(node);
          return node;
        },
        update,
      };
    }));
    const more = $("more");
    more.hidden = found.length <= most;
    more.textContent = `Show all ${found.length}`;
    if (!found.length) $("services").replaceChildren(el("p", { cls: "soft" }, wish ? "Nothing fits the filter." : "No service is followed yet: a service is by its tag " + p.sidecar.tag_prefix + ".enable=true."));
  };

  const chip = (stage) => el("span", { cls: "chip", level: STAGES[stage]?.[1] ?? "note" }, STAGES[stage]?.[0] ?? stage);

  const summary = (unit) => {
    const chips = [...unit.counts].filter(([stage]) => stage !== "in_rotation").map(([stage, n]) => el("span", { cls: "chip", level: STAGES[stage]?.[1] ?? "note" }, `${n} ${STAGES[stage]?.[0] ?? stage}`));
    const slots = unit.backends.find((one) => one.slots)?.slots;
    return [
      el("span", { cls: "name" }, unit.service.namespace && el("span", { cls: "namespace" }, unit.service.namespace + " / "), el("bdi", null, unit.service.name)),
      el("span", { cls: "grow" }),
      ...chips,
      unit.unrouted ? el("span", { cls: "chip", level: "bad" }, count(unit.unrouted, "route") + " missing") : null,
      slots && slots.free === 0 ? el("span", { cls: "chip", level: "warn" }, "no free slot") : null,
      el("span", { cls: "share", level: unit.level }, unit.wanted ? `${unit.fine} of ${unit.wanted} in rotation` : "nothing registered"),
    ].filter(Boolean);
  };

  const body = (unit) => {
    const parts = unit.backends.map((backend) => {
      const kind = backend.kind === "slots" ? `${backend.slots?.used} of ${backend.slots?.total} slots taken` : backend.made_at_runtime ? "made at runtime" : "servers are added to it";
      return el("p", { cls: "fact" }, "Backend ", el("b", null, backend.name), `: ${kind}; ${backend.in_rotation} of ${backend.wanted} in rotation.`);
    });
    for (const backend of unit.backends) if (backend.problem) parts.push(el("p", { cls: "fact" }, "The last change failed: " + backend.problem));
    const order = ["rejected", "blocked", "down", "by_hand", "wanted", "admitted", "held", "unserved", "draining", "gone", "in_rotation", "foreign"];
    const sorted = [...unit.instances].sort((a, b) => order.indexOf(stageOf(a)) - order.indexOf(stageOf(b)));
    const shownOnes = sorted.slice(0, SHOWN.instances);
    parts.push(el("ul", { cls: "instances" }, ...shownOnes.map(instance)));
    const rest = sorted.length - shownOnes.length;
    if (rest > 0) parts.push(el("p", { cls: "fact" }, `and ${rest} more, which are ${rest && sorted.slice(SHOWN.instances).every((one) => stageOf(one) === "in_rotation") ? "all in rotation" : "in status"}`));
    if (unit.routes.length) parts.push(el("h3", null, "Routes"), el("p", { cls: "fact" }, list(unit.routes.map((one) => `${one.kind} ${one.key} (${one.state})`), 12)));
    return parts;
  };

  const instance = (one) => {
    const { registration, server, backend } = one;
    const stage = stageOf(one);
    const at = PLACE[stage] ?? LIFE.indexOf(stage);
    const level = STAGES[stage]?.[1] ?? "note";
    const life = at < 0 ? null : el("span", { cls: "life", "aria-hidden": "true", title: "wanted → admitted → in rotation → draining → gone" }, ...LIFE.map((_, step) => el("i", { cls: step < at ? "past" : step === at ? "now" : "to-come" })));
    const name = server?.name || registration?.place?.server || "";
    const address = server?.address ?? registration?.address ?? "";
    const fine = [];
    if (server) fine.push(`${ADMIN[server.admin]} and ${server.up ? "UP" : "DOWN"} for ${time(server.since_ms)}, weight ${server.weight}${server.checked ? "" : ", without a check"}`);
    const check = server && checkOf(backend?.name, server.name);
    if (check?.status) fine.push(`last check: ${wordsOf(check)}`);
    if (registration) fine.push(`job ${shown(registration.job)}, allocation ${shown(registration.allocation).slice(0, 8)}`);
    if (registration?.notes?.length) fine.push(...registration.notes);
    return el("li", null,
      el("div", { cls: "stage", level }, chip(stage), life),
      el("div", null,
        el("div", null, el("b", { cls: "mono" }, name || "no server"), address && " at ", address && el("span", { cls: "mono" }, address)),
        el("div", { cls: "why" }, why(stage, one)),
        ...fine.map((text) => el("div", { cls: "fine" }, text)),
        registration?.tags?.length ? el("div", { cls: "fine" }, "tags: " + list(registration.tags, 12)) : null));
  };

  const why = (stage, one) => {
    const { registration, server } = one;
    if (stage === "rejected") return "Not served: " + registration.rejections.join("; ");
    const blocked = hindrance(one);
    if (blocked) return "Blocked: " + blocked.text;
    const drain = server?.drain;
    switch (stage) {
      case "wanted": return picture.haproxy.connected ? "It is being brought in." : "HAProxy is away.";
      case "admitted": return "It gets traffic as soon as its first check has passed.";
      case "down": return "Its check fails: it gets no traffic.";
      case "draining": return `Its registration is gone; it finishes its sessions${drain?.sessions === undefined ? "" : " (" + drain.sessions + " left)"}${drain ? ", for " + time(drain.left_ms) + " at most" : ""}.`;
      case "gone": return "Out of rotation, and about to be removed.";
      case "by_hand": return "An operator took it out: " + (server?.by_hand ?? "");
      case "held": return `Held without a registration: ${server?.hold ? heldBy(server.hold) : ""}${server?.hold?.left_ms === undefined ? "" : ", for " + time(server.hold.left_ms) + " more at most"}.`;
      case "foreign": return "Not the sidecar's: never touched.";
      case "unserved": return "Its tags do not ask for it: it has no " + picture.sidecar.tag_prefix + ".enable=true.";
      default: return server?.by_hand ?? "";
    }
  };

  const routes = (p) => {
    const all = p.routes ?? [];
    $("routes-section").hidden = !all.length;
    const wish = $("filter").value.trim().toLowerCase();
    const hits = wish ? all.filter((one) => `${one.kind} ${one.key}\n${one.service}\n${one.backend}`.toLowerCase().includes(wish)) : all;
    const odd = all.filter((one) => one.state !== "active" && one.state !== "waiting").length;
    set("routes-count", wish ? `${hits.length} of ${all.length}` : odd ? `${all.length}, ${odd} not as asked` : String(all.length));
    if (!$("routes-box").open) return $("routes").replaceChildren();
    const order = Object.keys(ROUTES).reverse();
    const first = [...hits].sort((a, b) => order.indexOf(a.state) - order.indexOf(b.state)).slice(0, SHOWN.routes);
    const items = first.map((one) => ({
      key: [one.kind, one.key, one.namespace, one.service].join("\n"),
      sig: JSON.stringify(one),
      make: () => el("li", null,
        el("div", { cls: "line" }, el("span", { cls: "chip", level: ROUTES[one.state] }, one.state), el("span", null, one.kind + " ", el("b", { cls: "mono" }, one.key)), el("span", null, "→ " + one.backend), el("span", { cls: "why" }, full({ namespace: one.namespace, name: one.service }), one.map && " in " + one.map)),
        one.why && el("div", { cls: "why" }, one.why)),
    }));
    const rest = hits.length - first.length;
    if (rest > 0) items.push({ key: "", sig: rest, make: () => el("li", null, `and ${rest} more`) });
    keyed($("routes"), items);
  };

  const OUTCOMES = { refused: ["refused", "bad"], unknown: ["unknown", "warn"], later: ["not now", "warn"], sent: ["sent", "note"], done: ["done", "ok"], down: ["DOWN", "bad"], up: ["UP", "ok"] };
  const isVerdict = (one) => one.outcome === "up" || one.outcome === "down";
  const serverOf = (one) => [one.backend, one.server].filter(Boolean).join("/");

  // What belongs together, the newest first: what was done to one server for one cause at once, servers of a backend that went
  // DOWN or came UP together, and all of a server that does so time and again.
  const groupsOf = (all) => {
    const times = grouped(all.filter(isVerdict), serverOf);
    const flaps = (one) => isVerdict(one) && times.get(serverOf(one)).length > FLAPS;
    const open = new Map();
    const groups = [];
    for (const one of [...all].reverse()) {
      const at = Date.parse(one.at);
      const of = isVerdict(one) ? one.backend : one.server && serverOf(one);
      const key = flaps(one) ? "flaps " + serverOf(one) : JSON.stringify([of, one.why]);
      const group = open.get(key);
      if (group && (flaps(one) || Math.abs(group.at - at) <= TOGETHER)) {
        group.lines.push(one);
        group.at = at;
      } else {
        const made = { at, lines: [one], flaps: flaps(one) };
        open.set(key, made);
        groups.push(made);
      }
    }
    return groups;
  };

  const DAY = { hour12: false };
  const clock = (text) => {
    const at = new Date(text);
    return at.toDateString() === new Date().toDateString() ? at.toLocaleTimeString([], DAY) : at.toLocaleString([], DAY);
  };
  const changeLine = (one, ...rest) => {
    const [word, level] = OUTCOMES[one.outcome] ?? [one.outcome, "note"];
    return el("div", { cls: "line" }, el("time", { datetime: one.at, title: one.at }, clock(one.at)), el("span", { cls: "chip", level }, word), ...rest);
  };
  const because = (one) => {
    const says = one.reply ? `${isVerdict(one) ? "," : ": HAProxy says"} “${shown(one.reply)}”` : "";
    return el("div", { cls: "why" }, one.why + (one.index === undefined ? "" : `, index ${one.index}`) + says);
  };
  const single = (one) => [changeLine(one, one.command ? el("code", null, one.command) : el("b", { cls: "mono" }, serverOf(one))), because(one)];
  const several = ({ lines, flaps }) => {
    const [last, first] = [lines[0], lines.at(-1)];
    const servers = [...new Set(lines.map(serverOf).filter(Boolean))];
    if (flaps) {
      const downs = lines.filter((one) => one.why.includes("DOWN"));
      const said = downs.find((one) => one.reply)?.reply;
      return [changeLine(last, el("b", { cls: "mono" }, servers[0])), el("div", { cls: "why" }, `HAProxy's check: DOWN ${downs.length} times since ${clock(first.at)}${said ? `, the last time “${shown(said)}”` : ""}`)];
    }
    const order = Object.keys(OUTCOMES);
    const worst = [...lines].sort((a, b) => order.indexOf(a.outcome) - order.indexOf(b.outcome))[0];
    const many = isVerdict(last) ? count(lines.length, "server") : count(lines.length, "command");
    return [changeLine({ ...worst, at: first.at }, el("b", { cls: "mono" }, list(servers, 2) || "maps"), el("span", null, many)), because(worst)];
  };
  const fill = (node, group) => {
    const before = node.firstElementChild;
    const focused = before?.contains(document.activeElement);
    if (group.lines.length === 1) {
      node.replaceChildren(...single(group.lines[0]));
      return node;
    }
    const lines = el("ol", { cls: "lines" }, ...(isVerdict(group.lines[0]) ? group.lines : [...group.lines].reverse()).map((one) => el("li", null, ...(one.command ? [changeLine(one, el("code", null, one.command)), one.reply && because(one)] : single(one)))));
    const details = el("details", null, el("summary", null, ...several(group)), lines);
    details.open = Boolean(before?.open);
    node.replaceChildren(details);
    if (focused) details.firstElementChild.focus();
    return node;
  };
  const changes = (all) => {
    const last = groupsOf(all).slice(0, SHOWN.changes);
    if (!last.length) return $("changes").replaceChildren(el("li", { cls: "empty" }, "HAProxy was not changed since the sidecar started."));
    keyed($("changes"), last.map((group) => ({
      // The first one stays the same when others come.
      key: String(group.lines.at(-1).number),
      sig: JSON.stringify([group.flaps, ...group.lines.map((one) => [one.number, one.outcome, one.reply])]),
      make: () => fill(el("li"), group),
      update: (node) => fill(node, group),
    })));
  };

  const show = () => {
    if (!picture) return;
    const troubles = troublesOf(picture);
    const [text, level] = verdict(picture, troubles);
    if (!isLost) {
      set("verdict", text);
      $("verdict").dataset.level = level;
      document.title = (level === "ok" ? "" : level === "bad" ? "✗ " : "! ") + "HAProxy by Nomad";
    }
    facts(picture);
    wrong(troubles);
    services(picture);
    routes(picture);
    changes(picture.changes ?? []);
  };

  // === The connection ===

  let isLost = false;
  let isReading = false;
  let isWanted = false;
  let pause = SECOND;
  let timer = 0;

  const lost = (why) => {
    isLost = true;
    document.body.classList.add("lost");
    $("link").dataset.level = "bad";
    set("link", "no connection");
    set("verdict", `The sidecar does not answer (${shown(why)}). ${picture ? `What is shown is as it was at ${new Date(readAt).toLocaleTimeString([], { hour12: false })}.` : "Trying again."}`);
    $("verdict").dataset.level = "bad";
    document.title = "✗ no connection";
  };

  const read = async () => {
    if (isReading) { isWanted = true; return; }
    isReading = true;
    isWanted = false;
    clearTimeout(timer);
    const began = performance.now();
    const silent = setTimeout(() => { if (!isLost) { $("link").dataset.level = "warn"; set("link", "no answer yet"); } }, 4 * SECOND);
    try {
      const answer = await fetch("status", { cache: "no-store", headers: { accept: "application/json" }, signal: AbortSignal.timeout(15 * SECOND) });
      if (!answer.ok) throw new Error(answer.status === 503 ? "it starts afresh" : "status " + answer.status);
      picture = await answer.json();
      readAt = Date.now();
      isLost = false;
      document.body.classList.remove("lost");
      live();
      show();
      const ill = picture.backends.filter((one) => one.servers.some((server) => server.stage === "down" || server.stage === "admitted"));
      const open = [...$("services").children].filter((node) => node.open).flatMap((node) => node.item.unit.backends);
      ask(new Set([...ill.slice(0, 4), ...open.slice(0, 4)].map((one) => one.name)));
    } catch (error) {
      lost(error.name === "TypeError" ? "connection refused or broken" : error.name === "TimeoutError" ? "no answer within 15 s" : error.message);
    }
    clearTimeout(silent);
    // A large picture is read less often: a tenth of the time at most. A sidecar that stood still has no large picture.
    pause = isLost ? SECOND : Math.min(Math.max(SECOND, 10 * (performance.now() - began)), 10 * SECOND);
    setTimeout(() => {
      isReading = false;
      if (isWanted) read();
      else later();
    }, pause);
  };
  // What nobody tells of: times go on, and a connection may be dead.
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => (document.hidden ? later() : read()), isLost ? 2 * SECOND : isLive() ? 10 * SECOND : 3 * SECOND);
  };

  // HAProxy's words on the checks of a few backends, not older than five seconds.
  const ask = async (names) => {
    for (const name of names) {
      if (Date.now() - (checks.get(name)?.at ?? 0) < 5 * SECOND) continue;
      checks.set(name, { at: Date.now(), words: checks.get(name)?.words });
      try {
        const answer = await fetch("checks?backend=" + encodeURIComponent(name), { signal: AbortSignal.timeout(5 * SECOND) });
        if (answer.ok) {
          checks.set(name, { at: Date.now(), words: await answer.json() });
          if (checks.size > 50) checks.delete(checks.keys().next().value);
          show();
        }
      } catch { /* It is said elsewhere when the sidecar is away. */ }
    }
  };

  let events = null;
  const isLive = () => events?.readyState === 1;
  const live = () => {
    if (isLost) return;
    $("link").dataset.level = isLive() ? "ok" : "none";
    set("link", isLive() ? "live" : "read every 3 s");
  };
  const listen = () => {
    events = new EventSource("events");
    events.addEventListener("open", () => { live(); read(); });
    events.addEventListener("picture", () => { if (document.hidden) isWanted = true; else read(); });
    events.addEventListener("change", (event) => {
      if (!picture) return;
      const change = JSON.parse(event.data);
      const all = (picture.changes ?? []).filter((one) => one.number !== change.number);
      picture.changes = [...all, change].sort((a, b) => a.number - b.number).slice(-SHOWN.kept);
      changes(picture.changes);
    });
    events.addEventListener("error", () => {
      live();
      if (!isReading) read();
      // Refused for good, as when too many listen: the page reads by itself, and tries again later.
      if (events.readyState === 2) setTimeout(listen, 30 * SECOND);
    });
  };

  let typing = 0;
  $("filter").addEventListener("input", () => {
    clearTimeout(typing);
    most = SHOWN.services;
    typing = setTimeout(() => { if (picture) { services(picture); routes(picture); } }, 150);
  });
  $("more").addEventListener("click", () => { most = Infinity; services(picture); });
  $("routes-box").addEventListener("toggle", () => picture && routes(picture));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) read(); });
  read();
  listen();
})();
