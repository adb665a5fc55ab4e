//! Encryption of what is in a log: each object is a file of age (https://age-encryption.org/v1), which the
//! `age` program opens too.

use age::x25519::{Identity, Recipient};
use age::{Decryptor, Encryptor};
use snapsync_model::{Error, Result, locked};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{env, fs};

/// Names the file with the identities.
const IDENTITY: &str = "SNAPSYNC_IDENTITY";

/// The bytes of a chunk, and those that it has encrypted.
const CHUNK: u64 = 64 << 10;
const SEALED_CHUNK: u64 = CHUNK + 16;
const NONCE: u64 = 16;

/// To whom a log is encrypted, and who can open it here.
#[derive(Default)]
pub(crate) struct Seals {
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
    /// Opens the packs of the present upload alone.
    upload: Mutex<Option<Arc<Identity>>>,
}

/// Reads recipients as users write them.
pub(crate) fn recipients(texts: &[String]) -> Result<Vec<Recipient>> {
    let parsed = texts.iter().map(|text| {
        text.parse::<Recipient>().map_err(|why| {
            // Who mistakes one for the other shall not find it in the journal.
            let is_identity = text.trim_start().to_ascii_uppercase().starts_with("AGE-SECRET-KEY-");
            let shown = if is_identity { "an identity, which is a secret," } else { &format!("{text:?}") };
            Error::usage(
                format!("{shown} is no recipient: {why}"),
                "`age-keygen -o FILE` makes an identity, and shows its recipient: age1…",
            )
        })
    });
    parsed.collect()
}

impl Seals {
    /// The identities come from the file that the environment names, if any are needed.
    pub(crate) fn new(recipients: Vec<Recipient>) -> Result<Seals> {
        let file = env::var_os(IDENTITY).filter(|file| !file.is_empty() && !recipients.is_empty());
        let identities = file.map(|file| identities(Path::new(&file))).transpose()?.unwrap_or_default();
        Ok(Seals { recipients, identities, upload: Mutex::default() })
    }

    pub(crate) fn are_used(&self) -> bool {
        !self.recipients.is_empty()
    }

    /// Whether all of the log can be read.
    pub(crate) fn can_open(&self) -> bool {
        !self.are_used() || !self.identities.is_empty()
    }

    /// Lets who has this identity open what `seal_upload` seals.
    pub(crate) fn set_upload(&self, identity: Option<Identity>) {
        *locked(&self.upload) = identity.map(Arc::new);
    }

    /// Encrypts it, if the log is encrypted.
    pub(crate) fn seal(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        self.seal_for(None, bytes)
    }

    /// The same for what a primary that was interrupted reads back.
    pub(crate) fn seal_upload(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let upload = locked(&self.upload).as_ref().map(|identity| identity.to_public());
        self.seal_for(upload.as_ref(), bytes)
    }

    fn seal_for(&self, more: Option<&Recipient>, bytes: Vec<u8>) -> Result<Vec<u8>> {
        if !self.are_used() {
            return Ok(bytes);
        }
        let failed =
            |why: &dyn std::fmt::Display| Error::failed(format!("cannot encrypt: {why}"), "try again");
        let all = self.recipients.iter().chain(more).map(|recipient| recipient as &dyn age::Recipient);
        let sealing = Encryptor::with_recipients(all).map_err(|e| failed(&e))?;
        let seal = || {
            let mut writer = sealing.wrap_output(Vec::with_capacity(bytes.len() + (4 << 10)))?;
            writer.write_all(&bytes)?;
            writer.finish()
        };
        seal().map_err(|e: io::Error| failed(&e))
    }

    /// What an object of the log says.
    pub(crate) fn open(&self, bytes: Vec<u8>) -> std::result::Result<Vec<u8>, Unopened> {
        if !self.are_used() {
            return Ok(bytes);
        }
        let mut opened = Vec::with_capacity(bytes.len());
        self.reader(Cursor::new(bytes))?.read_to_end(&mut opened).map_err(|_| Unopened::Damaged)?;
        Ok(opened)
    }

    /// The same for one that is too large for memory.
    pub(crate) fn reader<R: Read>(&self, from: R) -> std::result::Result<impl Read + use<R>, Unopened> {
        self.opened(BufReader::with_capacity(SEALED_CHUNK as usize, from))
    }

    fn opened<R: io::BufRead>(&self, from: R) -> std::result::Result<age::stream::StreamReader<R>, Unopened> {
        let upload = locked(&self.upload).clone();
        let own = self.identities.iter().map(|identity| identity as &dyn age::Identity);
        let all = own.chain(upload.as_deref().map(|identity| identity as &dyn age::Identity));
        let decryptor = Decryptor::new_buffered(from).map_err(|_| Unopened::Damaged)?;
        decryptor.decrypt(all).map_err(|e| match e {
            age::DecryptError::NoMatchingKeys => Unopened::NoIdentity,
            _ => Unopened::Damaged,
        })
    }
}

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unopened {
    NoIdentity,
    Damaged,
}

fn identities(file: &Path) -> Result<Vec<Identity>> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = lines.map(|line| line.parse().ok()).collect::<Option<Vec<Identity>>>();
    let read = read.filter(|all| !all.is_empty());
    // What it says is a secret.
    read.ok_or_else(|| {
        Error::usage(
            format!("cannot read an identity of age from {}, which {IDENTITY} names", file.display()),
            "it has lines of AGE-SECRET-KEY-1…, without a passphrase, and who runs snapsync may read it",
        )
    })
}

/// What an object begins with: to whom it is encrypted.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    bytes: Arc<Vec<u8>>,
    /// Of the whole object.
    size: u64,
}

impl Header {
    /// So much of an object is read to find it: enough for some thirty recipients.
    pub(crate) const GUESS: u64 = 4 << 10;

    /// Finds it in the beginning of an object; None if more is needed.
    pub(crate) fn find(beginning: &[u8], size: u64) -> Option<Header> {
        let mac = beginning.windows(5).position(|five| five == b"\n--- ")? + 5;
        let end = mac + beginning[mac..].iter().position(|byte| *byte == b'\n')? + 1 + NONCE as usize;
        let bytes = Arc::new(beginning.get(..end)?.to_vec());
        Some(Header { bytes, size })
    }

    /// The bytes of what is encrypted.
    pub(crate) fn length(&self) -> u64 {
        let sealed = self.size.saturating_sub(self.bytes.len() as u64);
        sealed.saturating_sub(sealed.div_ceil(SEALED_CHUNK) * (SEALED_CHUNK - CHUNK))
    }

    /// Where the chunks are that have a range of that.
    pub(crate) fn chunks(&self, range: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        let body = self.bytes.len() as u64;
        let end = body + range.end.div_ceil(CHUNK) * SEALED_CHUNK;
        body + range.start / CHUNK * SEALED_CHUNK..end.min(self.size)
    }

    /// A range, which is within the length, from these chunks.
    pub(crate) fn open(
        &self,
        seals: &Seals,
        range: &std::ops::Range<u64>,
        chunks: Vec<u8>,
    ) -> std::result::Result<Vec<u8>, Unopened> {
        let sparse = Sparse { header: self.bytes.clone(), at: 0, start: self.chunks(range).start, chunks };
        let mut reader = seals.opened(BufReader::with_capacity(SEALED_CHUNK as usize, sparse))?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let mut read = || {
            if range.start.is_multiple_of(CHUNK) {
                // To the start of a chunk it would only go by way of the end of the file.
                reader.seek(SeekFrom::Start(range.start + 1))?;
            }
            reader.seek(SeekFrom::Start(range.start))?;
            reader.read_exact(&mut bytes)
        };
        read().map_err(|_| Unopened::Damaged)?;
        Ok(bytes)
    }
}

/// An object of which only the header and some chunks are here.
struct Sparse {
    header: Arc<Vec<u8>>,
    at: u64,
    /// Where the chunks begin.
    start: u64,
    chunks: Vec<u8>,
}

impl Read for Sparse {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let (from, at) = match self.at.checked_sub(self.start) {
            Some(at) => (&self.chunks, at),
            None => (&*self.header, self.at),
        };
        let rest = from.get(at as usize..).unwrap_or_default();
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Sparse {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.at = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.at.saturating_add_signed(by),
            SeekFrom::End(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seals(identities: &[&Identity]) -> Seals {
        let own = identities.iter().map(|identity| (*identity).clone()).collect();
        let recipients = identities.iter().map(|identity| identity.to_public()).collect();
        Seals { recipients, identities: own, upload: Mutex::default() }
    }

    #[test]
    fn any_range_of_an_object_is_read_from_the_chunks_that_have_it() {
        let (one, other) = (Identity::generate(), Identity::generate());
        let seals = seals(&[&one, &other]);
        for length in [1, 65_535, 65_536, 65_537, 200_000, 262_144] {
            let plain: Vec<u8> = (0..length).map(|at: u32| (at * 7 % 251) as u8).collect();
            let sealed = seals.seal(plain.clone()).unwrap();
            assert_eq!(seals.open(sealed.clone()).unwrap(), plain);
            let header = Header::find(&sealed, sealed.len() as u64).unwrap();
            assert_eq!(header.length(), u64::from(length));
            for (from, to) in [(0, 1), (0, length), (65_536, 65_537), (65_535, 131_073), (length - 1, length)]
            {
                let range = u64::from(from)..u64::from(to);
                if range.end > header.length() || range.is_empty() {
                    continue;
                }
                let chunks = header.chunks(&range);
                let chunks = sealed[chunks.start as usize..chunks.end as usize].to_vec();
                let read = header.open(&seals, &range, chunks.clone()).unwrap();
                assert_eq!(read, plain[from as usize..to as usize], "{range:?} of {length}");
                let mut other = chunks;
                other[0] ^= 1;
                assert_eq!(header.open(&seals, &range, other), Err(Unopened::Damaged));
            }
        }
    }

    #[test]
    fn who_has_no_identity_reads_nothing_but_the_present_upload() {
        let (one, upload) = (Identity::generate(), Identity::generate());
        let mut primary = seals(&[&one]);
        primary.identities.clear();
        assert!(!primary.can_open());
        let sealed = primary.seal(b"x".to_vec()).unwrap();
        assert_eq!(primary.open(sealed), Err(Unopened::NoIdentity));
        primary.set_upload(Some(upload));
        let (sealed, own) =
            (primary.seal(b"x".to_vec()).unwrap(), primary.seal_upload(b"y".to_vec()).unwrap());
        assert_eq!(primary.open(sealed), Err(Unopened::NoIdentity));
        assert_eq!(primary.open(own.clone()).unwrap(), b"y");
        assert_eq!(seals(&[&one]).open(own).unwrap(), b"y");
    }
}
