//! The further channels of a round, on either end.

use crate::location::text::Address;
use crate::options::SshOptions;
use crate::remote::relay::Gathering;
use crate::remote::ssh::{MOST_CHANNELS, Peer};
use snapsync_model::{Monitor, Result};
use snapsync_stream::{Arrivals, Connection, Limit, Outlet};
use snapsync_sys::Spot;
use std::path::Path;
use std::sync::Arc;
use uuid::Uuid;

/// Further channels of a round.
pub(crate) enum Channels<'f, 'a> {
    /// The other end opens them, and they arrive through the store of the local volume.
    Wait { count: usize, gathering: Option<Gathering> },
    /// This end starts a process for each.
    Open { address: &'f Address, ssh: &'f SshOptions, peers: Vec<Peer<'a>> },
}

impl<'a> Channels<'_, 'a> {
    pub(crate) fn wait(channels: usize) -> Channels<'static, 'a> {
        Channels::Wait { count: channels.clamp(1, MOST_CHANNELS) - 1, gathering: None }
    }

    /// Announces where they arrive, if they arrive here.
    pub(crate) fn announce(&mut self, store: Option<Spot>) -> Result<Option<Uuid>> {
        let Channels::Wait { count: count @ 1.., gathering } = self else { return Ok(None) };
        let Some(store) = store else { return Ok(None) };
        let waiting = gathering.insert(Gathering::new(&store, *count)?);
        Ok(Some(waiting.token()))
    }

    /// Opens them if the other end waits for them.
    pub(crate) fn open(
        &mut self,
        token: Option<Uuid>,
        first: &Connection,
        monitor: &'a Monitor,
    ) -> Result<()> {
        if let (Channels::Open { address, ssh, peers }, Some(token)) = (self, token) {
            for _ in 1..ssh.channels {
                peers.push(Peer::join(address, ssh, token, first.fate(), monitor)?);
            }
        }
        Ok(())
    }

    pub(crate) fn arrivals(&mut self, name: &Path, monitor: &'a Monitor) -> Result<Vec<Arrivals<'_>>> {
        match self {
            Channels::Wait { gathering: Some(gathering), .. } => gathering.arrivals(name, monitor),
            Channels::Wait { .. } => Ok(Vec::new()),
            Channels::Open { peers, .. } => Ok(peers.iter_mut().map(|peer| peer.wire.arrivals()).collect()),
        }
    }

    pub(super) fn outlets(
        &mut self,
        name: &Path,
        limit: Option<&Arc<Limit>>,
        monitor: &'a Monitor,
    ) -> Result<Vec<Outlet<'_>>> {
        match self {
            Channels::Wait { gathering: Some(gathering), .. } => gathering.outlets(name, limit, monitor),
            Channels::Wait { .. } => Ok(Vec::new()),
            Channels::Open { peers, .. } => {
                Ok(peers.iter_mut().map(|peer| peer.wire.outlet(limit)).collect())
            }
        }
    }
}
