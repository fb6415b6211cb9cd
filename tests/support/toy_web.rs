//! A web server for the demo: 200 with its name for every path, `ok` for `/health`. Nothing else.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use clap::Parser;

/// Answers every request with its name.
#[derive(Parser)]
struct Flags {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// What to say.
    #[arg(long, default_value = "toy")]
    name: String,
}

fn main() -> io::Result<()> {
    let flags = Flags::parse();
    let listener = TcpListener::bind(flags.listen)?;
    writeln!(io::stdout(), "http://{}", listener.local_addr()?)?;
    io::stdout().flush()?;
    for socket in listener.incoming() {
        let (socket, name) = (socket?, flags.name.clone());
        // A connection that breaks is the client's business.
        thread::spawn(move || serve(&socket, &name));
    }
    Ok(())
}

fn serve(mut socket: &TcpStream, name: &str) -> io::Result<()> {
    let mut lines = BufReader::new(socket).lines();
    while let Some(first) = lines.next().transpose()? {
        for line in lines.by_ref() {
            if line?.is_empty() {
                break;
            }
        }
        let mut words = first.split(' ');
        let head_only = words.next() == Some("HEAD");
        let body = match words.next() {
            Some("/health") => "ok\n".to_owned(),
            _ => format!("{name}\n"),
        };
        let length = body.len();
        let body = if head_only { "" } else { &body };
        write!(
            socket,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        if first.ends_with("HTTP/1.0") {
            break;
        }
    }
    Ok(())
}
