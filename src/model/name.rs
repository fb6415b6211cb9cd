//! Names and addresses that may be written to the runtime socket. The only way to make one is to pass the grammar, so
//! whatever holds one of these types is safe to print (management guide, section 9.3; facts of hostile input: every
//! byte outside the grammar can end a word, a command or the connection's framing).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU16,
    sync::Arc,
};

/// The longest proxy or server name that is accepted, in bytes. HAProxy has no limit but that of the line.
const MAX_NAME: usize = 100;

/// Why a text cannot be the name of a backend or server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("the name is empty")]
    Empty,
    /// Longer than 100 bytes.
    #[error("the name is longer than {MAX_NAME} bytes")]
    TooLong,
    /// A byte outside `[A-Za-z0-9_.:-]`.
    #[error("the name has the character {0:?}; letters, digits and _ . : - are allowed")]
    Character(char),
    /// `BACKEND` and `FRONTEND` name the summary rows of `show stat`.
    #[error("the name is reserved by HAProxy")]
    Reserved,
}

fn check(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(InvalidName::TooLong);
    }
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
    if !name.bytes().all(is_allowed) {
        let bad = name
            .chars()
            .find(|c| !u8::try_from(*c).is_ok_and(is_allowed));
        return Err(InvalidName::Character(bad.unwrap_or_default()));
    }
    if name == "BACKEND" || name == "FRONTEND" {
        return Err(InvalidName::Reserved);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Accepts `[A-Za-z0-9_.:-]`, 1 to 100 bytes, and neither `BACKEND` nor `FRONTEND`.
            pub fn new(name: &str) -> Result<Self, InvalidName> {
                check(name)?;
                Ok(Self(name.into()))
            }

            /// The name as HAProxy knows it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// The name of a backend (or `listen` section) of HAProxy.
    BackendName
}
name! {
    /// The name of a `defaults` section, from which backends are made.
    ProfileName
}
name! {
    /// The name of a server inside its backend.
    ServerName
}
name! {
    /// The name of a section of HAProxy's configuration that is not a proxy.
    SectionName
}
name! {
    /// What an operator calls keywords of servers that tags may ask for.
    ServerProfileName
}
name! {
    /// The value of a cookie by which clients stay with a server.
    CookieValue
}

/// `backend/server`, as the runtime API names a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerRef {
    /// The backend.
    pub backend: BackendName,
    /// The server in it.
    pub server: ServerName,
}

impl fmt::Display for ServerRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend.as_str())?;
        f.write_str("/")?;
        f.write_str(self.server.as_str())
    }
}

/// Where an instance listens: an IP address and a port that is not 0. HAProxy resolves no name given at runtime, and
/// takes port 0 for "the port of the client's request", so neither can be expressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The IP address.
    pub ip: IpAddr,
    /// The port.
    pub port: NonZeroU16,
}

impl fmt::Display for Address {
    /// `1.2.3.4:80` or `[::1]:80`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.ip, self.port.get()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_letters_digits_and_four_signs() {
        for good in [
            "web",
            "nomad-1a2b3c4d-0011aabb",
            "a.b:c_d-e",
            "0",
            &"x".repeat(100),
        ] {
            assert_eq!(BackendName::new(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            "a b",
            "a;b",
            "a\nb",
            "a\\",
            "a/b",
            "#1",
            "é",
            "a<<",
            "BACKEND",
            "FRONTEND",
            "a\0",
            &"x".repeat(101),
        ] {
            assert!(ServerName::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_address_is_printed_as_add_server_wants_it() {
        let port = NonZeroU16::new(80).unwrap();
        assert_eq!(
            Address {
                ip: "10.0.0.1".parse().unwrap(),
                port
            }
            .to_string(),
            "10.0.0.1:80"
        );
        assert_eq!(
            Address {
                ip: "::1".parse().unwrap(),
                port
            }
            .to_string(),
            "[::1]:80"
        );
    }
}
