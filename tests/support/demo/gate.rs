//! The way to Nomad, which can be closed: connections break, and new ones are refused.

use std::{
    io,
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Passes on bytes to `upstream`, for as long as it is open.
pub(crate) struct Gate {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    is_open: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Gate {
    pub(crate) fn before(upstream: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::haproxy::free_port()))?;
        let gate = Self {
            addr: listener.local_addr()?,
            shared: Arc::new(Shared {
                upstream,
                is_open: AtomicBool::new(true),
                streams: Mutex::default(),
            }),
        };
        gate.shared.listen(listener);
        Ok(gate)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn close(&self) {
        self.shared.is_open.store(false, Ordering::SeqCst);
        // Wakes the thread that accepts, which then drops the listener.
        while TcpStream::connect(self.addr).is_ok() {
            thread::yield_now();
        }
        for stream in self.shared.streams().drain(..) {
            // It may be closed already.
            stream.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }

    pub(crate) fn open(&self) -> io::Result<()> {
        let listener = TcpListener::bind(self.addr)?;
        self.shared.is_open.store(true, Ordering::SeqCst);
        self.shared.listen(listener);
        Ok(())
    }
}

impl Shared {
    fn listen(self: &Arc<Self>, listener: TcpListener) {
        let shared = Arc::clone(self);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if !shared.is_open.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that breaks is the client's affair.
                shared.join(client).unwrap_or_default();
            }
        });
    }

    fn join(&self, client: TcpStream) -> io::Result<()> {
        let upstream = TcpStream::connect(self.upstream)?;
        for (mut from, mut to) in [
            (client.try_clone()?, upstream.try_clone()?),
            (upstream.try_clone()?, client.try_clone()?),
        ] {
            thread::spawn(move || {
                drop(io::copy(&mut from, &mut to));
                to.shutdown(Shutdown::Write).unwrap_or_default();
            });
        }
        self.streams().extend([client, upstream]);
        Ok(())
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
