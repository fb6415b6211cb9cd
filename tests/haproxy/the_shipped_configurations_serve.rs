//! Each HAProxy configuration of `nomad-jobs`, as it is, on every HAProxy that it is for: what is registered is served, also
//! after a kill -9 of HAProxy.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    time::Duration,
};

use crate::support::{
    haproxy::{Haproxy, HaproxyBin, free_port},
    sidecar::within,
    tap::Tap,
    toy::Toy,
    world::{ENABLED, Nomad, World, instance, on_every_line},
};

#[test]
fn slots_are_filled() {
    on_every_line(|bin| drop(is_served(bin, "haproxy-slots.cfg", &[], "any.example")));
}

#[test]
fn servers_are_added() {
    on_every_line(|bin| drop(is_served(bin, "haproxy-dynamic.cfg", &[], "any.example")));
}

#[test]
fn a_service_with_two_tags_gets_its_backend_and_its_route() {
    on_every_line(|bin| {
        if ["2.6", "2.8", "3.0", "3.2"].contains(&bin.line()) {
            return;
        }
        let (_world, port) = is_served(
            bin,
            "haproxy-zero-touch.cfg",
            &["haproxy.domain=shop.example"],
            "SHOP.example.:80",
        );
        assert_eq!(ask(port, "other.example").unwrap().0, "503");
    });
}

#[test]
fn a_service_with_a_path_of_all_hosts_gets_its_route() {
    on_every_line(|bin| {
        if bin.line() == "3.4" {
            let tags = ["haproxy.path=/"];
            drop(is_served(
                bin,
                "haproxy-zero-touch.cfg",
                &tags,
                "any.example",
            ));
        }
    });
}

/// Starts everything, and asks until an instance of `web` answers; after a kill of HAProxy once more.
fn is_served(bin: &HaproxyBin, config: &str, tags: &[&str], host: &str) -> (World, u16) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("nomad-jobs")
        .join(config);
    let port = free_port();
    let haproxy = Haproxy::start_shipped(bin, &file, port, "");
    let mut world = World {
        tap: Tap::before(&haproxy.socket()),
        haproxy,
        nomad: Nomad::start(),
    };
    let sidecar = world.sidecar();
    let toy = Toy::start("web-1");
    let tags = [&[ENABLED], tags].concat();
    world
        .nomad
        .register(instance("web", toy.address()).tags(&tags));
    let until_served = || {
        let what = format!("{config} of {} serves web", bin.version);
        within(Duration::from_secs(15), &what, || {
            let answer = ask(port, host).ok()?;
            (answer == ("200".to_owned(), "web-1".to_owned())).then_some(())
        });
    };
    until_served();
    world.haproxy.kill9();
    world.haproxy.restart();
    until_served();
    drop(sidecar);
    (world, port)
}

/// Status and body.
fn ask(port: u16, host: &str) -> io::Result<(String, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or_default();
    Ok((status.to_owned(), body.to_owned()))
}
