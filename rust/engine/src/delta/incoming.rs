//! Reads a delta from a file, a pipe or a channel.

use crate::delta::staging::IncomingDelta;
use crate::options::Terms;
use rustix::fs::OFlags;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::wire::{DeltaHead, Digest, ManifestHead, fill, read_head};
use snapsync_stream::{Arrivals, Channel};
use snapsync_sys::{Named, Spot};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) fn nonsense(peer: &Path, what: &str) -> Error {
    Error::integrity(
        format!("{} sent {what}", peer.display()),
        "use the same snapsync on both sides; if it is the same, something changes what it sends",
    )
}

/// The number of bytes read from a pipe at a time.
pub(crate) const BUFFER: usize = 1 << 18;

/// A delta that is read up to its manifest.
pub(crate) struct Delta<R> {
    from: R,
    pub(crate) name: PathBuf,
    pub(crate) header: DeltaHead,
    head: Digest,
    manifest: ManifestHead,
}

impl<'a> Delta<BufReader<Channel<'a>>> {
    pub(crate) fn open(input: Option<&Path>, monitor: &'a Monitor) -> Result<Self> {
        let (file, name) = match input {
            // Opening a named pipe without a writer must not block.
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

    /// Offers it to its receiver. With `has_manifest` the receiver has the manifest already, and it is not
    /// sent.
    pub(crate) fn offer<T>(
        &mut self,
        terms: Terms,
        has_manifest: bool,
        take: impl FnOnce(IncomingDelta<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut is_fetched = false;
        let manifest = self.manifest;
        let Delta { from, name, header, .. } = self;
        let mut fetch = |to: &Spot| {
            is_fetched = true;
            if has_manifest {
                return Err(nonsense(name, "no manifest, where there is none yet"));
            }
            fetch(from, manifest, to, name)
        };
        let (file, fetch) = (&PathBuf::new(), &mut fetch);
        let taken = take(IncomingDelta { header, manifest, terms, file, fetch, spare: None, again: None })?;
        if !is_fetched && !has_manifest {
            self.pass_manifest()?;
        }
        Ok(taken)
    }

    /// Writes its manifest to a file, before it is offered from there.
    pub(crate) fn keep_manifest(&mut self, to: &Spot) -> Result<()> {
        fetch(&mut self.from, self.manifest, to, &self.name)
    }

    pub(crate) fn manifest_digest(&self) -> Digest {
        self.manifest.digest
    }

    /// Continues after a manifest that is there already.
    pub(crate) fn pass_manifest(&mut self) -> Result<()> {
        let passed = io::copy(&mut self.from.by_ref().take(self.manifest.length), &mut io::sink());
        passed.map(drop).map_err(|e| snapsync_stream::wire::lift(e, "read", &self.name))
    }

    pub(crate) fn frames<'d>(&'d mut self) -> Arrivals<'d> {
        Arrivals { from: Box::new(&mut self.from), name: self.name.clone() }
    }

    /// Nothing may follow, because the digests would not cover it.
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

/// Writes the following manifest to a file, if it matches its announcement and can be read safely.
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
