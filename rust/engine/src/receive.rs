//! A delta from a file or a pipe, into the standby that it is for.

use crate::Care;
use crate::Terms;
use crate::report::Received;
use crate::standby::{Local, Offer, Opening, StandbyEnd};
use rustix::fs::OFlags;
use snapsync_manifest::ManifestReader;
use snapsync_model::{Context, Error, Monitor, Result, Stage};
use snapsync_stream::wire::{Digest, Header, ManifestHead, fill, read_head};
use snapsync_stream::{Arrivals, Channel};
use snapsync_sys::{Named, Spot};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes taken from a pipe at a time.
pub(crate) const BUFFER: usize = 1 << 18;

/// Applies the delta in `input`, standard input without one, to the standby at `volume`.
pub fn receive(
    volume: &Path,
    input: Option<&Path>,
    terms: Terms,
    care: Care,
    monitor: &Monitor,
) -> Result<Received> {
    let started = Instant::now();
    let mut delta = Delta::open(input, monitor)?;
    let mut standby = Local::new(volume, None, monitor)?;
    let result = apply(&mut delta, &mut standby, terms, care, started, monitor);
    if let Err(error) = &result {
        standby.failed(error, delta.header.snapshot.id);
    }
    result
}

fn apply(
    delta: &mut Delta<BufReader<Channel<'_>>>,
    standby: &mut Local<'_>,
    terms: Terms,
    care: Care,
    started: Instant,
    monitor: &Monitor,
) -> Result<Received> {
    let header = delta.header.clone();
    let lineage = header.lineage.ok_or_else(|| {
        Error::refused(
            format!("{} is of a snapshot that belongs to no volume", delta.name.display()),
            "receive it with --as-snapshot DIR",
        )
    })?;
    let promotions = header.promotions.clone();
    let state = standby.open(Opening { lineage, epoch: header.epoch, promotions, care, store: None })?;
    let begun = delta.offer(terms, false, |offer| standby.begin(offer))?;
    let counts = ManifestReader::open(&standby.incoming()?.manifest())?.counts()?;
    monitor.start(Stage::Receive, counts.data_bytes);
    monitor.advance(begun.kept);
    let seed = delta.seed();
    standby.take(vec![delta.frames()], seed)?;
    delta.expect_end()?;
    let snapshot = standby.commit()?;
    Ok(Received {
        verb: "receive",
        standby: Some(state.volume),
        path: None,
        base: state.newest,
        snapshot,
        changes: counts,
        data_bytes: counts.data_bytes,
        kept_bytes: begun.kept,
        losses: begun.losses,
        notes: monitor.take_notes(),
        recovered: state.recovered,
        set_aside: state.set_aside,
        counters: monitor.counters(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A delta as it comes, read as far as its manifest.
pub(crate) struct Delta<R> {
    from: R,
    pub(crate) name: PathBuf,
    pub(crate) header: Header,
    head: Digest,
    manifest: ManifestHead,
}

impl<'a> Delta<BufReader<Channel<'a>>> {
    pub(crate) fn open(input: Option<&Path>, monitor: &'a Monitor) -> Result<Self> {
        let (file, name) = match input {
            // A named pipe that nobody writes to yet must not keep this from being stopped.
            Some(path) => {
                let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
                (file.context("open", path)?.into(), path.to_path_buf())
            }
            None => {
                let name = PathBuf::from("standard input");
                (io::stdin().as_fd().try_clone_to_owned().context("open", &name)?, name)
            }
        };
        let channel = Channel::new(file, monitor).context("read", &name)?;
        Delta::read(BufReader::with_capacity(BUFFER, channel), name)
    }
}

impl<R: Read + Send> Delta<R> {
    pub(crate) fn read(mut from: R, name: PathBuf) -> Result<Delta<R>> {
        let (header, head) = read_head(&mut from, &name)?;
        let manifest = ManifestHead::read(&mut from, &name)?;
        Ok(Delta { from, name, header, head, manifest })
    }

    pub(crate) fn seed(&self) -> [Digest; 2] {
        [self.head, self.manifest.digest]
    }

    /// Offers it to what receives it. `has_manifest`: the receiver has the manifest, and it does not come.
    pub(crate) fn offer<T>(
        &mut self,
        terms: Terms,
        has_manifest: bool,
        take: impl FnOnce(Offer<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut is_fetched = false;
        let manifest = self.manifest;
        let Delta { from, name, header, .. } = self;
        let mut fetch = |to: &Spot| {
            is_fetched = true;
            if has_manifest {
                return Err(crate::protocol::nonsense(name, "no manifest, where there is none yet"));
            }
            fetch(from, manifest, to, name)
        };
        let (file, fetch) = (&PathBuf::new(), &mut fetch);
        let taken = take(Offer { header, manifest, terms, file, fetch, spare: None })?;
        if !is_fetched && !has_manifest {
            self.pass_manifest()?;
        }
        Ok(taken)
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        self.manifest.digest
    }

    /// Goes on behind a manifest that is there already.
    pub(crate) fn pass_manifest(&mut self) -> Result<()> {
        let passed = io::copy(&mut self.from.by_ref().take(self.manifest.length), &mut io::sink());
        passed.map(drop).map_err(|e| snapsync_stream::wire::lift(e, "read", &self.name))
    }

    pub(crate) fn frames<'d>(&'d mut self) -> Arrivals<'d> {
        Arrivals { from: Box::new(&mut self.from), name: self.name.clone() }
    }

    /// Nothing may follow: it would be something that the digests do not cover.
    pub(crate) fn expect_end(&mut self) -> Result<()> {
        match self.from.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(Error::integrity(
                format!("something follows the end of the delta in {}", self.name.display()),
                "send it again; nothing of it was applied",
            )),
            Err(e) => Err(snapsync_stream::wire::lift(e, "read", &self.name)),
        }
    }
}

/// Writes the manifest that comes next to a file, if it is what was announced and can be read without harm.
pub(crate) fn fetch(
    from: &mut impl Read,
    manifest: ManifestHead,
    to: &(impl Named + ?Sized),
    name: &Path,
) -> Result<()> {
    let mut file = to.create().context("create", to.show())?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    let mut left = manifest.length;
    while left > 0 {
        let piece = &mut buffer[..left.min(BUFFER as u64) as usize];
        fill(from, piece, name)?;
        hasher.update(piece);
        file.write_all(piece).context("write", to.show())?;
        left -= piece.len() as u64;
    }
    if *hasher.finalize().as_bytes() != manifest.digest {
        return Err(Error::integrity(
            format!("the manifest in {} is not what its digest says", name.display()),
            "send it again; nothing of it was applied",
        ));
    }
    snapsync_manifest::vet(to)
}
