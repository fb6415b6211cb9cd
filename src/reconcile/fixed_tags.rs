//! The tags that become keywords of `add server` which no command changes afterwards. They are part of a dynamic
//! server's name: with other ones it is another server, which replaces the former.

use super::tags::{boolean, milliseconds, number, small};
use crate::model::{
    CookieValue, Protocol, ProxyHeader, SectionName, ServerKeywords, ServerProfileName,
};

/// The tags that become keywords of `add server` which no command changes afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FixedTags {
    /// `backup`
    pub backup: bool,
    /// `check.disabled`, or `check.type=none`
    pub check_disabled: bool,
    /// `check.port`
    pub check_port: Option<u16>,
    /// `check.interval`, in milliseconds
    pub inter: Option<u32>,
    /// `check.fastinter`, in milliseconds
    pub fast_inter: Option<u32>,
    /// `check.downinter`, in milliseconds
    pub down_inter: Option<u32>,
    /// `check.rise`
    pub rise: Option<u16>,
    /// `check.fall`
    pub fall: Option<u16>,
    /// `check.profile`
    pub check_profile: Option<SectionName>,
    /// `maxqueue`; 0 is no limit.
    pub maxqueue: Option<u32>,
    /// `slowstart`, in milliseconds
    pub slowstart: Option<u32>,
    /// `cookie`
    pub cookie: Option<Cookie>,
    /// `send-proxy`
    pub send_proxy: Option<ProxyHeader>,
    /// `proto`
    pub proto: Option<Protocol>,
    /// `agent.port`
    pub agent_port: Option<u16>,
    /// `agent.interval`, in milliseconds
    pub agent_inter: Option<u32>,
    /// `tls.profile`
    pub tls_profile: Option<ServerProfileName>,
    /// The keywords that the operator gave that profile.
    pub tls_keywords: Option<ServerKeywords>,
}

/// What `cookie` asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cookie {
    /// A value of the registration's own, the same for its whole life.
    Auto,
    /// This value.
    Value(CookieValue),
}

impl FixedTags {
    /// The tags that were given, as `key=value` words in a fixed order: part of a dynamic server's name. What is not given
    /// is not in it, so that the names of servers stay when more tags are known.
    #[must_use]
    pub fn canonical(&self) -> String {
        let mut text = String::new();
        let mut word = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                text.extend([key, "=", &value, " "]);
            }
        };
        let is = |on: bool| on.then(|| "1".to_owned());
        let short = |value: Option<u16>| value.map(|value| value.to_string());
        let long = |value: Option<u32>| value.map(|value| value.to_string());
        word("backup", is(self.backup));
        word("check.disabled", is(self.check_disabled));
        word("check.port", short(self.check_port));
        word("check.interval", long(self.inter));
        word("check.fastinter", long(self.fast_inter));
        word("check.downinter", long(self.down_inter));
        word("check.rise", short(self.rise));
        word("check.fall", short(self.fall));
        word(
            "check.profile",
            self.check_profile.as_ref().map(ToString::to_string),
        );
        word("maxqueue", long(self.maxqueue));
        word("slowstart", long(self.slowstart));
        let cookie = self.cookie.as_ref().map(|cookie| match cookie {
            // No value has a star.
            Cookie::Auto => "*".to_owned(),
            Cookie::Value(value) => value.to_string(),
        });
        word("cookie", cookie);
        word(
            "send-proxy",
            self.send_proxy.map(|header| header.to_string()),
        );
        word("proto", self.proto.map(|protocol| protocol.to_string()));
        word("agent.port", short(self.agent_port));
        word("agent.interval", long(self.agent_inter));
        // Not the name but what it stands for: with other words it is another server.
        word(
            "tls.profile",
            self.tls_keywords.as_ref().map(ToString::to_string),
        );
        text
    }

    /// Takes one tag in. `Ok(false)` when the key is none of these.
    pub(super) fn set(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "backup" => self.backup = boolean(value)?,
            "check.disabled" => self.check_disabled |= boolean(value)?,
            "check.port" => self.check_port = Some(small(value, 1, 65535)?),
            "check.interval" => self.inter = Some(milliseconds(value)?),
            "check.fastinter" => self.fast_inter = Some(milliseconds(value)?),
            "check.downinter" => self.down_inter = Some(milliseconds(value)?),
            "check.rise" => self.rise = Some(small(value, 1, 100)?),
            "check.fall" => self.fall = Some(small(value, 1, 100)?),
            "check.profile" => self.check_profile = Some(name(SectionName::new(value))?),
            "maxqueue" => self.maxqueue = Some(number(value, 0, 1_000_000)?),
            "slowstart" => self.slowstart = Some(milliseconds(value)?),
            "cookie" => {
                self.cookie = match value {
                    "off" => None,
                    "auto" => Some(Cookie::Auto),
                    _ => Some(Cookie::Value(name(CookieValue::new(value))?)),
                }
            }
            "send-proxy" => {
                self.send_proxy = match value {
                    "off" => None,
                    "v1" => Some(ProxyHeader::V1),
                    "v2" => Some(ProxyHeader::V2),
                    _ => return Err("expected one of off, v1, v2".to_owned()),
                }
            }
            "proto" => {
                self.proto = match value {
                    "h1" => Some(Protocol::H1),
                    "h2" => Some(Protocol::H2),
                    _ => return Err("expected one of h1, h2".to_owned()),
                }
            }
            "agent.port" => self.agent_port = Some(small(value, 1, 65535)?),
            "agent.interval" => self.agent_inter = Some(milliseconds(value)?),
            "tls.profile" => self.tls_profile = Some(name(ServerProfileName::new(value))?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn name<T, E: ToString>(name: Result<T, E>) -> Result<T, String> {
    name.map_err(|error| error.to_string())
}
