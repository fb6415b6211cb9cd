//! Whether the operator has stopped all removals: by the flag, or by a file that is looked at every second.

use std::path::PathBuf;

use tracing::warn;

use crate::config::Config;

/// The flag and the file.
pub(super) struct Freeze {
    flag: bool,
    file: Option<PathBuf>,
    /// What was told last.
    is_frozen: bool,
    is_troubled: bool,
}

impl Freeze {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            flag: config.freeze,
            file: config.freeze_file.clone(),
            is_frozen: false,
            is_troubled: false,
        }
    }

    /// Looks at the file: whether removals are stopped from now on, or allowed again, if that is news.
    pub(super) fn changed(&mut self) -> Option<bool> {
        let is_there = match self.file.as_ref().map(|file| (file, file.try_exists())) {
            Some((_, Ok(is_there))) => {
                self.is_troubled = false;
                is_there
            }
            Some((file, Err(error))) => {
                if !std::mem::replace(&mut self.is_troubled, true) {
                    warn!(file = %file.display(), %error, "the freeze file cannot be looked at: let the sidecar search its directory");
                }
                // Nobody has removed it, as far as one knows, nor made it.
                self.is_frozen && !self.flag
            }
            None => false,
        };
        let is_frozen = self.flag || is_there;
        (std::mem::replace(&mut self.is_frozen, is_frozen) != is_frozen).then_some(is_frozen)
    }
}
