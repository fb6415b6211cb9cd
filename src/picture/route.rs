//! The routes of the picture.

use serde::{Deserialize, Serialize};

use super::Text;

/// A route that the tags of a service ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// What is looked up, and how: `host`, `suffix`, `prefix`, `regex`, `path`, `SNI` or `port`.
    pub kind: Text,
    /// The key.
    pub key: Text,
    /// The map of this kind, if one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map: Option<Text>,
    /// The namespace of the service that asks for it.
    pub namespace: Text,
    /// Its name.
    pub service: Text,
    /// The backend that it is to lead to.
    pub backend: Text,
    /// What became of it.
    pub state: RouteState,
    /// Why, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The service that has it instead, with its namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taken_by: Option<Text>,
}

/// What became of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouteState {
    /// It leads to the backend.
    Active,
    /// It comes when a server of the backend is in rotation, or is about to be written.
    #[default]
    Waiting,
    /// Something in HAProxy is in the way.
    Blocked,
    /// Another service has it.
    Taken,
    /// The operator's rules do not allow it.
    Refused,
}

impl Route {
    /// Kind and key.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.kind, self.key)
    }
}

impl RouteState {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Waiting => "waiting",
            Self::Blocked => "blocked",
            Self::Taken => "taken",
            Self::Refused => "refused",
        }
    }
}
