//! What a volume does when roles change, here or on another machine.

use crate::location::directory::open_directory;
use crate::location::text::{Address, Location};
use crate::log::seen;
use crate::options::SshOptions;
use crate::remote::messages::{Answer, Request};
use crate::remote::ssh::Peer;
use crate::remote::wire::out_of_turn;
use crate::volume::roles::{Described, RoleReply, RoleRequest, perform};
use snapsync_log::LogAddress;
use snapsync_model::{Error, Monitor, Result, VolumeInfo};
use std::path::{Path, PathBuf};

// --- verbs ------------------------------------------------------------------------------------

/// A volume on any machine.
pub(crate) enum End {
    Here(PathBuf),
    There(Address),
    /// What stands for the primary that publishes to it.
    Log(LogAddress),
}

impl End {
    pub(crate) fn parse(path: &Path) -> Result<End> {
        if let Some(log) = LogAddress::parse(path)? {
            return Ok(End::Log(log));
        }
        Ok(match Location::parse(path)?.there() {
            Some(address) => End::There(address),
            None => End::Here(open_directory(path)?.title().to_path_buf()),
        })
    }

    pub(crate) fn perform(
        &self,
        request: RoleRequest,
        ssh: &SshOptions,
        monitor: &Monitor,
    ) -> Result<RoleReply> {
        match self {
            End::Here(path) => perform(path, request, monitor),
            End::There(address) => perform_there(address, request, ssh, monitor),
            End::Log(log) => match request {
                RoleRequest::Describe => seen::describe(log).map(|it| RoleReply::Described(Box::new(it))),
                _ => Err(Error::usage(
                    format!("{log} is a log, and has no role that could change"),
                    "name the volume that is to change its role",
                )),
            },
        }
    }

    pub(crate) fn describe(&self, ssh: &SshOptions, monitor: &Monitor) -> Result<Described> {
        match self.perform(RoleRequest::Describe, ssh, monitor)? {
            RoleReply::Described(described) => Ok(*described),
            other => Err(strange(&other)),
        }
    }

    /// Its address as seen from here.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            End::Here(path) => path.clone(),
            End::There(address) => address.to_string().into(),
            End::Log(log) => log.to_string().into(),
        }
    }
}

/// Asks the snapsync on another machine to do something with a volume there.
pub(crate) fn perform_there(
    address: &Address,
    request: RoleRequest,
    ssh: &SshOptions,
    monitor: &Monitor,
) -> Result<RoleReply> {
    let mut peer = Peer::start(address, ssh, monitor)?;
    peer.wire.tell(&Request::Do { volume: address.path.clone(), request })?;
    match peer.wire.hear_answer()? {
        Answer::Did(outcome) => {
            peer.end(monitor);
            Ok(*outcome)
        }
        _ => Err(out_of_turn(&peer.wire)),
    }
}

pub(crate) fn strange(outcome: &RoleReply) -> Error {
    Error::integrity(
        format!("the other end did not do what it was asked: {outcome:?}"),
        "use the same snapsync on both sides",
    )
}

pub(crate) fn ends(one: &Path, other: &Path) -> Result<(End, End)> {
    match (End::parse(one)?, End::parse(other)?) {
        (End::There(_), End::There(_)) => {
            Err(Error::usage("both volumes are on other machines", "run snapsync on one of the two"))
        }
        both => Ok(both),
    }
}

pub(crate) fn same_lineage(a: (&Path, &VolumeInfo), b: (&Path, &VolumeInfo)) -> Result<()> {
    if a.1.id == b.1.id {
        let what = format!("{} and {} are the same volume", a.0.display(), b.0.display());
        return Err(Error::usage(what, "name two"));
    }
    if a.1.lineage == b.1.lineage {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} and {} never were primary and standby of each other", a.0.display(), b.0.display()),
        "name two volumes of one lineage: `snapsync status` shows it",
    ))
}
