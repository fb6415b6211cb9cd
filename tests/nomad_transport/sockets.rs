//! Real sockets: Unix, TCP and TLS.
