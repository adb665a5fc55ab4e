//! Content of a snapshot that comes from a volume on another machine.

use crate::accounts::arriving::{Arriving, Finding};
use crate::accounts::left::tell_left;
use crate::delta::incoming::{Delta, nonsense};
use crate::delta::landing::{Content, Filling, Landing, id_of};
use crate::delta::outgoing::put_head;
use crate::delta::staging::{take, with_data, workers};
use crate::location::place::Place;
use crate::location::text::Address;
use crate::options::{SshOptions, Terms};
use crate::remote::messages::{Answer, FETCH, Request};
use crate::remote::ssh::Peer;
use crate::remote::wire::Wire;
use crate::volume::lost::{LostPaths, MOST};
use snapsync_apply::Loss;
use snapsync_model::{Accounts, Error, Monitor, RelPath, Result, SnapshotInfo, Stage, VolumeInfo};
use snapsync_stream::{Compression, Held, Readable};
use uuid::Uuid;

/// Sends a client a snapshot of a volume that it may read, if all of it is there.
pub(super) fn send(
    wire: &mut Wire<'_>,
    place: Place,
    lineage: Uuid,
    paths: &LostPaths,
    monitor: &Monitor,
) -> Result<()> {
    let Place::Snapshot(named) = place else {
        return Err(Error::usage("a directory was asked for, not a snapshot", "name VOLUME@SNAP"));
    };
    let (volume, snapshot) = *named;
    expect_kin(&volume.info(), lineage)?;
    let paths: Vec<RelPath> = paths.paths().into_iter().collect();
    let content = Content::new(&volume, &snapshot, &paths, monitor)?.owned(None);
    content.expect_whole(monitor)?;
    let dir = snapsync_sys::scratch()?;
    let manifest = dir.path().join("manifest.arrow");
    let head = content.write_manifest(&manifest, monitor)?;
    wire.tell(&Answer::Ready)?;
    let name = wire.peer.clone();
    let seed = put_head(&mut wire.to, &head, &manifest, &name)?;
    monitor.start(Stage::Send, head.totals.data_bytes);
    let (held, outlets) = (Held::default(), vec![wire.outlet(None)]);
    let (rows, packing) = (with_data(&manifest)?, Compression::default());
    let from = Readable { side: content.side(), held: &held, restless: None };
    snapsync_stream::send(rows, from, seed, outlets, packing, workers(), monitor).map(drop)
}

/// Refuses more paths than are told in one message.
fn expect_tellable(paths: &[RelPath], address: &Address) -> Result<()> {
    if paths.iter().map(|path| path.as_bytes().len()).sum::<usize>() < MOST {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} paths are more than {} is asked for at a time", paths.len(), address.host),
        "name the directories that they are in, or select fewer at a time",
    ))
}

/// Refuses a volume whose snapshots are not those of this lineage.
pub(super) fn expect_kin(volume: &VolumeInfo, lineage: Uuid) -> Result<()> {
    if volume.lineage == lineage && !lineage.is_nil() {
        return Ok(());
    }
    Err(Error::refused(
        format!("{} is of another lineage: it has other snapshots", volume.path.display()),
        "name a standby of the volume itself; `snapsync status` shows them",
    ))
}

/// A snapshot, or some paths of it, that a volume on another machine is about to send.
pub(super) struct Fetched<'a> {
    peer: Peer<'a>,
    snapshot: SnapshotInfo,
    id: Uuid,
    /// Set where a volume asks for its own snapshot: the owners that it has for those of the lineage.
    by_volume: Option<Option<Accounts>>,
}

impl<'a> Fetched<'a> {
    pub(super) fn ask(
        address: &Address,
        ssh: &SshOptions,
        (lineage, snapshot): (Uuid, &SnapshotInfo),
        paths: &[RelPath],
        monitor: &'a Monitor,
    ) -> Result<Fetched<'a>> {
        expect_tellable(paths, address)?;
        let mut peer = Peer::start(address, ssh, monitor)?;
        peer.expect(FETCH, "send a snapshot")?;
        let place = [&*address.path, b"@", snapshot.id.to_string().as_bytes()].concat();
        peer.ask(&Request::Fetch { place, lineage, paths: LostPaths::of(paths) })?;
        Ok(Fetched { peer, snapshot: snapshot.clone(), id: id_of(snapshot, paths), by_volume: None })
    }

    pub(super) fn owned(self, accounts: Option<Accounts>) -> Fetched<'a> {
        Fetched { by_volume: Some(accounts), ..self }
    }
}

impl Filling for Fetched<'_> {
    fn id(&self) -> Uuid {
        self.id
    }

    fn bring(&mut self, to: &Landing<'_>, terms: Terms) -> Result<(Vec<Loss>, u64)> {
        let name = self.peer.wire.peer.clone();
        let mut delta = Delta::read(&mut self.peer.wire.from, name.clone())?;
        if delta.header.base.is_some() || delta.header.snapshot.id != self.snapshot.id {
            return Err(nonsense(&delta.name, "another snapshot than it was asked for"));
        }
        delta.header.snapshot = SnapshotInfo { id: self.id, ..self.snapshot.clone() };
        delta.keep_manifest(to.manifest)?;
        if let Some(Some(accounts)) = &self.by_volume {
            let finding = Finding { names: None, naming: None, is_strict: true, sequence: 0 };
            Arriving::new(accounts, finding).rewrite(to.manifest, &name, to.monitor)?;
        }
        let (mut incoming, begun) = to.begin(&delta.header, terms, false)?;
        to.monitor.start(Stage::Receive, delta.header.totals.data_bytes);
        to.monitor.advance(begun.kept);
        let seed = delta.seed();
        take(&incoming, vec![delta.frames()], seed, to.monitor)?;
        incoming.seal()?;
        incoming.commit()?;
        if self.by_volume.is_none() {
            tell_left(&delta.header, incoming.root().path(), to.monitor);
        }
        Ok((begun.losses, 0))
    }
}
