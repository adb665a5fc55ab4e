//! What an administrator allows clients to do.

use crate::round::rights::Rights;
use snapsync_model::Error;
use std::path::PathBuf;

/// What the other end may ask for.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    /// Only volumes beneath this directory.
    pub restrict_to: Option<PathBuf>,
    /// Volumes may only be sent.
    pub read_only: bool,
    /// Volumes may only be received.
    pub receive_only: bool,
    /// Old snapshots may be deleted, even if something else is restricted.
    pub allow_prune: bool,
    /// What is in a directory may be taken for a copy of the primary, even if something else is restricted.
    pub allow_adopt: bool,
}

pub(super) fn forbidden(what: &str, option: &str) -> Error {
    Error::refused(format!("this server {what}: it was started with {option}"), "ask its administrator")
}

impl Gate {
    pub(super) fn is_narrow(&self) -> bool {
        self.restrict_to.is_some() || self.read_only || self.receive_only
    }

    pub(super) fn prunes(&self) -> bool {
        !self.is_narrow() || self.allow_prune
    }

    pub(super) fn adopts(&self) -> bool {
        !self.is_narrow() || self.allow_adopt
    }

    /// What a round may change here if the primary is here.
    pub(super) fn rights(&self) -> Rights {
        Rights { prunes: self.prunes(), replaces: !self.is_narrow(), only_reads: self.read_only }
    }
}
