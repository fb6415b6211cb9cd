//! The fake Nomad as a process of its own, for the demo and the benches, driven over a second port:
//!
//! - `POST /control/register`: a registration or a list of them, as Nomad writes them; what is
//!   missing is made up, so `{"ServiceName": "web", "Port": 8080, "Tags": ["haproxy.enable=true"]}` will do
//! - `POST /control/deregister?namespace=…&id=…[&type=PlanResult]`; `type=none` is garbage collection without an event
//! - `POST /control/cut`, `/control/stop`, `/control/resume`, `/control/restart`
//! - `POST /control/mode`: `["Every", {"Answer": "NotReady"}]`, `["Lists", "Hang"]`, `["Every", "Normal"]`, …
//! - `GET /control/requests`: how many requests of each kind came so far
//!
//! It answers 200, or 400 with the reason.

#[expect(dead_code, reason = "this program uses a part of the fake")]
mod fake_nomad;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Parser;
use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use fake_nomad::{
    Deletion, FakeNomad, Kind, Mode, ServiceRegistration, Version, Which, request::Request,
};

/// Stands in for a Nomad agent.
#[derive(Parser)]
struct Flags {
    /// `127.0.0.1:PORT` for an agent, `unix:PATH` for a Task API. Can be given more than once.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: Vec<String>,
    /// Where to be driven.
    #[arg(long, default_value = "127.0.0.1:0")]
    control: SocketAddr,
    /// A JSON list of registrations to begin with.
    #[arg(long)]
    services: Option<PathBuf>,
    /// The stream's version: 1.10.5, 1.11.2 or 2.0.5.
    #[arg(long, default_value = "2.0.5", value_parser = version)]
    version: Version,
    /// Seconds between two heartbeats of a stream.
    #[arg(long, default_value_t = 30)]
    heartbeat: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let mut tcp = flags.listen.iter().filter_map(|place| place.parse().ok());
    let agent = tcp.next().unwrap_or((Ipv4Addr::LOCALHOST, 0).into());
    let heartbeat = Duration::from_secs(flags.heartbeat);
    let mut nomad = FakeNomad::start_at(flags.version, heartbeat, agent).await;
    for place in &flags.listen {
        if let Some(path) = place.strip_prefix("unix:") {
            nomad
                .listen_task_api(path.trim_start_matches("//").as_ref())
                .await;
        }
    }
    if let Some(path) = &flags.services {
        let registrations: Vec<ServiceRegistration> = parse(&std::fs::read(path)?)?;
        nomad.register_all(registrations.into_iter().map(ServiceRegistration::complete));
    }

    let control = TcpListener::bind(flags.control).await?;
    let addresses = serde_json::json!({
        "address": nomad.url(),
        "control": format!("http://{}", control.local_addr()?),
        "listen": flags.listen,
    });
    writeln!(io::stdout(), "{addresses}")?;
    io::stdout().flush()?;
    loop {
        let (socket, _) = control.accept().await?;
        // One at a time: whoever drives the fake waits for the answer anyway.
        if let Err(error) = answer(&nomad, socket).await {
            writeln!(io::stderr(), "control: {error}")?;
        }
    }
}

async fn answer(nomad: &FakeNomad, socket: TcpStream) -> io::Result<()> {
    let mut socket = BufReader::new(socket);
    let Some(request) = Request::read(&mut socket).await? else {
        return Ok(());
    };
    let (status, body) = match obey(nomad, &request).await {
        Ok(body) => ("200 OK", body),
        Err(error) => ("400 Bad Request", format!("{error}\n")),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await?;
    socket.shutdown().await
}

async fn obey(nomad: &FakeNomad, request: &Request) -> io::Result<String> {
    match request.path() {
        "/control/register" => {
            let registrations: Vec<ServiceRegistration> = match request.body.first() {
                Some(b'[') => parse(&request.body)?,
                _ => vec![parse::<ServiceRegistration>(&request.body)?],
            };
            nomad.register_all(registrations.into_iter().map(ServiceRegistration::complete));
        }
        "/control/deregister" => {
            let id = request
                .parameter("id")
                .ok_or(io::Error::other("which id?"))?;
            let keys = [(request.namespace(), id)];
            match request.parameter("type").as_deref() {
                None => nomad.deregister(&keys, Deletion::ServiceDeregistration),
                Some("none") => nomad.delete_silently(&keys),
                Some(kind) => nomad.deregister(&keys, parse(format!("{kind:?}").as_bytes())?),
            }
        }
        "/control/cut" => nomad.cut(),
        "/control/stop" => nomad.stop().await,
        "/control/resume" => nomad.resume().await,
        "/control/restart" => {
            nomad.begin_restart();
            nomad.finish_restart();
        }
        "/control/mode" => {
            let (which, mode): (Which, Mode) = parse(&request.body)?;
            nomad.mode(which, mode);
        }
        "/control/requests" => {
            return Ok(serde_json::json!({
                "lists": nomad.count(Kind::List),
                "reads": nomad.count(Kind::Read),
                "streams": nomad.count(Kind::Stream),
                "others": nomad.count(Kind::Other),
                "open_streams": nomad.open_streams(),
                "index": nomad.index(),
            })
            .to_string());
        }
        path => return Err(io::Error::other(format!("no such order: {path}"))),
    }
    Ok(String::new())
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> io::Result<T> {
    serde_json::from_slice(json).map_err(io::Error::other)
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "1.10.5" => Ok(Version::V1_10_5),
        "1.11.2" => Ok(Version::V1_11_2),
        "2.0.5" => Ok(Version::V2_0_5),
        _ => Err("recorded are 1.10.5, 1.11.2 and 2.0.5".into()),
    }
}
