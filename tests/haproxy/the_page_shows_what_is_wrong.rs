//! The page in a real browser: what is wrong is on top and live, nothing that anybody has named executes, and it can be read
//! in both colour schemes and on a phone. And its events, from the real program.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    browser::Browser,
    fake_nomad::ServiceRegistration,
    haproxy::binaries,
    sidecar::{soon, within},
    toy::Toy,
    world::{BOTH, DEFAULTS, ENABLED, World, config, instance, on_every_line, section, slots},
};

/// Each would leave `window.harmed` behind if it were anything but text.
const HOSTILE: [&str; 6] = [
    "<img src=x onerror=\"window.harmed=1\">",
    "</script><script>window.harmed=2</script>",
    "\"><svg onload=window.harmed=3>",
    "javascript:window.harmed=4",
    "\u{202e}edispU\u{2066}\u{0}\n\u{feff}",
    "{{constructor.constructor('window.harmed=5')()}}",
];

/// For a browser on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// No page reads by the clock: only what it was told of can change it.
const NO_POLLING: &str = "const real = window.setTimeout; \
    window.setTimeout = (what, ms, ...more) => [2000, 3000, 10000].includes(ms) ? 0 : real(what, ms, ...more);";

/// A web server that is ill, in these words, at its port of every address: the port.
fn ill(words: &'static str) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("there is a free port");
    let port = listener.local_addr().expect("it is bound").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut bytes = [0; 1024];
            drop(stream.read(&mut bytes));
            let answer = format!("HTTP/1.1 503 {words}\r\ncontent-length: 0\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    port
}

fn register_hostile(world: &World, port: u16) {
    for (number, text) in HOSTILE.iter().enumerate() {
        for (place, service) in [*text, "dynamic", "slots"].into_iter().enumerate() {
            let unique = u32::try_from(1_000 + number * 10 + place).expect("few");
            let mut one = ServiceRegistration::new(service, unique, i64::from(port));
            one.id = format!("{text}{unique}");
            (*text).clone_into(&mut one.job_id);
            one.alloc_id = format!("{text}{unique}");
            if place > 0 {
                // Of two at one address one is served.
                one.address = format!("127.0.1.{}", 1 + number * 2 + place);
            }
            let tags = [ENABLED, text, "haproxy.domain=<b>,a.example"];
            world.nomad.register(one.tags(&tags));
        }
    }
    let long = "long".repeat(2_500);
    let tags = [ENABLED, &format!("haproxy.weight={long}")];
    let long = instance(&long, SocketAddr::from(([127, 0, 0, 1], port)));
    world.nomad.register(long.tags(&tags));
}

/// Opens the page.
fn open(browser: &Browser, url: &str) {
    browser.open(url);
    until(
        browser,
        "the page is live",
        "return document.getElementById('link').textContent === 'live'",
    );
}

/// Waits until this is true in the page.
fn until(browser: &Browser, what: &str, script: &str) {
    let mut last = String::new();
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        within(PATIENCE, what, || {
            last = text(browser);
            (browser.run(script) == Value::Bool(true)).then_some(())
        });
    }));
    assert!(
        found.is_ok(),
        "not {what}, but {last}\n{:?}",
        browser.console()
    );
}

fn text(browser: &Browser) -> String {
    let text = browser.run("return document.body.innerText");
    text.as_str().unwrap_or_default().to_owned()
}

/// Waits until an element says this.
fn until_says(browser: &Browser, selector: &str, text: &str) {
    let script = format!(
        "return document.querySelector({}).textContent.includes({})",
        Value::from(selector),
        Value::from(text)
    );
    until(browser, &format!("{selector} says {text:?}"), &script);
}

/// That nothing executed, and nothing is there that the page has not made.
fn is_harmless(browser: &Browser) {
    let found = browser.run(
        "return [window.harmed ?? null, document.querySelectorAll('img, svg, iframe, object, embed, base, style, b > b, [onerror], [onload]').length, \
         document.querySelectorAll('script').length]",
    );
    assert_eq!(found, serde_json::json!([null, 0, 1]));
    let said = browser.console();
    assert!(said.is_empty(), "{said:#?}");
}

/// The least contrast of any text with what is behind it.
const CONTRAST: &str = "
    const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
        .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (node) => {
        for (; node; node = node.parentElement) {
            const colour = parse(getComputedStyle(node).backgroundColor);
            if (colour[3] === undefined || colour[3] > 0) return colour;
        }
        return [255, 255, 255];
    };
    let least = [99, ''];
    for (const node of document.querySelectorAll('body *')) {
        if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) || !node.checkVisibility()) continue;
        if (['SCRIPT', 'NOSCRIPT'].includes(node.tagName)) continue;
        const [a, b] = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((x, y) => y - x);
        const contrast = (a + 0.05) / (b + 0.05);
        if (contrast < least[0]) least = [contrast, node.outerHTML.slice(0, 200)];
    }
    return least";

/// Readable in both schemes and at both widths, without scrolling to the side.
fn is_readable(browser: &Browser, name: &str) {
    let mut backs = Vec::new();
    for scheme in ["light", "dark"] {
        for width in [1280, 390] {
            browser.screen(width, scheme);
            let widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
            assert_eq!(widths, serde_json::json!([width, width]), "{scheme}");
            browser.keep(&format!("{name}-{scheme}-{width}"));
        }
        let least = browser.run(CONTRAST);
        assert!(least[0].as_f64() >= Some(4.5), "{scheme}: {least}");
        backs.push(browser.run("return getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(backs[0], backs[1]);
}

#[test]
fn in_a_browser() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let bins = binaries();
    let bin = bins.last().expect("there is one");
    let config = [
        DEFAULTS,
        &section("slots", &slots(8)),
        &section("dynamic", ""),
        &section("full", &slots(1)),
    ]
    .concat();
    let world = World::start_with(bin, &config);
    let toys = BOTH.map(|service| world.serve(service, 1));
    let mut sidecar = world.sidecar();
    for (service, toys) in BOTH.iter().zip(&toys) {
        world.until_served_by(service, &[&toys[0]]);
    }
    sidecar.until_ready();
    browser.before_each_page(NO_POLLING);
    open(&browser, &format!("http://{}/", sidecar.admin()));
    until_says(
        &browser,
        "#verdict",
        "All is well: 2 of 2 instances in rotation.",
    );
    is_harmless(&browser);
    is_readable(&browser, "well");

    // What changes comes by itself.
    browser.run("window.sameness = 1");
    let more = world.serve("full", 2);
    until_says(&browser, "#services", "full");
    until_says(
        &browser,
        "#wrong-list",
        "full1 instance is blocked: no free slot: raise the number",
    );
    until_says(&browser, "#changes", "set server full/nomad1 state ready");
    // A restart of HAProxy and what is then said of its checks are its own words.
    toys[1][0].fail();
    until_says(
        &browser,
        "#verdict",
        "dynamic: No request is answered: 1 of 1 DOWN",
    );
    until_says(&browser, "#verdict", "L7STS, code 503");
    until_says(&browser, "#changes", "HAProxy's check: DOWN");
    is_readable(&browser, "ill");
    toys[1][0].serve();
    until(
        &browser,
        "it is over",
        "return !document.getElementById('wrong').textContent.includes('dynamic')",
    );
    assert_eq!(browser.run("return window.sameness"), 1);
    until_says(&browser, "#changes", "HAProxy's check: UP again");
    // An admission is a line, which opens.
    let found = browser.run(
        "const all = [...document.querySelectorAll('#changes > li')].filter((one) => one.innerText.includes('full/nomad1')); \
         const [group] = all.filter((one) => one.querySelector('details')); \
         const closed = group.innerText; \
         group.querySelector('summary').click(); \
         return [all.length, closed.includes('set server'), group.innerText.split('set server full/nomad1').length > 4]",
    );
    // Its commands, and that its check passed.
    assert_eq!(found, serde_json::json!([2, false, true]));
    is_readable(&browser, "open");
    drop(more);

    // Whatever they are called.
    register_hostile(&world, ill(HOSTILE[0]));
    for text in [HOSTILE[0], HOSTILE[1], "\\u{202e}edispU"] {
        until_says(&browser, "#services", text);
        until_says(&browser, "#wrong-list", text);
    }
    until_says(
        &browser,
        "#wrong-list",
        &format!("code 503, “{}", HOSTILE[0]),
    );
    browser.run(
        "document.querySelectorAll('details').forEach((one) => { one.open = true; }); \
         document.querySelectorAll('a, button, input').forEach((one) => one.dispatchEvent(new Event('focus')))",
    );
    until_says(
        &browser,
        "#services",
        "tags: haproxy.enable=true, <img src=x",
    );
    is_harmless(&browser);
    is_readable(&browser, "hostile");
    browser.run(
        "const filter = document.getElementById('filter'); filter.value = 'FULL'; filter.dispatchEvent(new Event('input'))",
    );
    until_says(&browser, "#services-count", "1 of ");

    sidecar.kill9();
    until_says(
        &browser,
        "#verdict",
        "The sidecar does not answer (connection refused or broken)",
    );
    until_says(&browser, "#link", "no connection");
    assert!(browser.run("return document.body.classList.contains('lost')") == true);
}

#[test]
fn a_page_that_had_no_answer_for_long_follows_again() {
    let Some(browser) = Browser::start() else {
        return;
    };
    let bins = binaries();
    let config = [DEFAULTS, &section("dynamic", "")].concat();
    let world = World::start_with(bins.last().expect("there is one"), &config);
    let toys = world.serve("dynamic", 2);
    // The only instance of its service, in a backend that others serve.
    let alone = Toy::start("alone");
    let tags = [ENABLED, "haproxy.backend.name=dynamic"];
    world
        .nomad
        .register(instance("photos", alone.address()).tags(&tags));
    let sidecar = world.sidecar();
    world.until_served_by("dynamic", &[&toys[0], &toys[1], &alone]);
    open(&browser, &format!("http://{}/", sidecar.admin()));
    alone.fail();
    let nobody = "default/photosNo request is answered: none of its instances in backend dynamic is in rotation.";
    until_says(&browser, "#wrong-list", nobody);
    sidecar.signal("STOP");
    until_says(&browser, "#link", "no connection");
    alone.serve();
    sidecar.signal("CONT");
    // Sooner than a page that has a large picture would ask again.
    let well = "All is well: 3 of 3 instances in rotation.";
    until_says(&browser, "#verdict", well);
    until_says(&browser, "#link", "live");
}

#[test]
fn events_tell_of_each_change_and_of_each_new_picture() {
    on_every_line(|bin| {
        let world = World::start_with(bin, &config());
        let toys = world.serve("dynamic", 1);
        let sidecar = world.sidecar();
        world.until_served_by("dynamic", &[&toys[0]]);
        sidecar.until_ready();
        let mut stream = TcpStream::connect(sidecar.admin()).expect("it listens");
        let wait = stream.set_read_timeout(Some(Duration::from_secs(20)));
        wait.expect("a socket has a timeout");
        let request = b"GET /events HTTP/1.1\r\nHost: sidecar\r\n\r\n";
        stream.write_all(request).expect("it reads");
        let mut heard = String::new();
        let mut until = |text: &str| {
            while !heard.contains(text) {
                let mut bytes = [0; 4096];
                let count = stream.read(&mut bytes).expect("it is said in time");
                assert!(count > 0, "{text}: {heard}");
                heard.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            heard.clone()
        };
        until("retry: ");
        let late = Toy::start("late");
        world.register("dynamic", &late);
        let server = world.server_of("dynamic", &late);
        until("event: picture\ndata: {}\n\n");
        let heard = until(&format!("enable health dynamic/{server}"));
        let status = sidecar.json("/status");
        let commands = status["changes"].as_array().expect("a list").iter();
        let of_it = commands.filter(|change| change["server"] == *server);
        let told = heard.matches("event: change\n").count();
        assert!((1..=of_it.count()).contains(&told), "{heard}");
        assert!(heard.contains(",\"outcome\":\"done\"}"), "{heard}");
        // Nobody who goes, or does not read, matters to it.
        drop(stream);
        soon("it goes on", || {
            (sidecar.get("/ready").0 == 200).then_some(())
        });
    });
}
