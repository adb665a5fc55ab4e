//! An open log: what it is, and by which keys it is read and written.

use crate::format::{FORMAT, Format};
use crate::keyring::Keyring;
use crate::keys::{LogKey, Signer};
use crate::numbers::PackNumbers;
use crate::probe::probe;
use crate::seals::{Header, Seals, Unopened};
use crate::store::{LogAddress, Objects};
use snapsync_model::{Error, Result};
use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::Mutex;
use uuid::Uuid;

/// An open log.
pub struct Log {
    pub(crate) objects: Objects,
    pub(crate) format: Format,
    pub(crate) keyring: Keyring,
    /// Whose commits are believed here.
    pub(crate) trusted: BTreeSet<LogKey>,
    pub(crate) seals: Seals,
    /// What the packs begin with that were read last, by their keys.
    pub(crate) headers: Mutex<VecDeque<(String, Header)>>,
    numbers: PackNumbers,
}

impl Log {
    /// Opens the log at an address; None if there is none.
    pub fn open(address: &LogAddress) -> Result<Option<Log>> {
        if let LogAddress::Directory(path) = address
            && !path.exists()
        {
            return Ok(None);
        }
        Log::at(Objects::open(address, false)?)
    }

    fn at(objects: Objects) -> Result<Option<Log>> {
        let Some(format) = Format::read(&objects)? else { return Ok(None) };
        let keyring = Keyring::of(format.id)?;
        let mut trusted = keyring.trusted()?;
        if trusted.is_empty() {
            trusted.insert(format.signer);
        } else if !trusted.contains(&format.signer) {
            return Err(objects.damaged(FORMAT, "it names another key than the one that this machine knows"));
        }
        let seals = Seals::new(format.recipients()?)?;
        let (headers, numbers) = Default::default();
        Ok(Some(Log { objects, format, keyring, trusted, seals, headers, numbers }))
    }

    /// Begins a log at an empty prefix, or opens the one that is there. A new one is encrypted to these
    /// recipients of age, if there are any.
    pub fn init(address: &LogAddress, recipients: &[String]) -> Result<Log> {
        if let Some(log) = Log::open(address)? {
            log.format.is_encrypted_to(address, recipients)?;
            return Ok(log);
        }
        // Before anything is written.
        crate::seals::recipients(recipients)?;
        let objects = Objects::open(address, true)?;
        let found = objects.list("")?;
        let others: Vec<&String> = found.iter().filter(|name| *name != "probe").collect();
        if let Some(other) = others.first() {
            return Err(Error::refused(
                format!("{address} is no log, and has {other} in it"),
                "name an empty prefix or directory",
            ));
        }
        probe(&objects)?;
        let (format, signer) = Format::new(recipients)?;
        // Nobody could ever write to a log whose key got lost.
        let keyring = Keyring::of(format.id)?;
        keyring.keep_signer(&signer)?;
        // Whoever was first has made it; that may have been an earlier try of this one.
        objects.put_new(FORMAT, format.signed(&signer)?)?;
        let log = Log::at(objects)?.ok_or_else(|| {
            Error::failed(format!("{address} does not show what was just written there"), "try again")
        })?;
        if log.id() == format.id {
            keyring.tell()?;
        } else {
            keyring.forget_signer()?;
        }
        log.format.is_encrypted_to(address, recipients)?;
        Ok(log)
    }

    pub fn id(&self) -> Uuid {
        self.format.id
    }

    /// Whether what is in it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.seals.are_used()
    }

    /// Whether all of it can be read here: it is not encrypted, or an identity is at hand.
    pub fn can_open(&self) -> bool {
        self.seals.can_open()
    }

    /// Fails unless all of it can be read here.
    pub fn expect_open(&self) -> Result<()> {
        if self.can_open() { Ok(()) } else { Err(self.unopened("", Unopened::NoIdentity)) }
    }

    /// Where the key is, or belongs, by which this machine signs its commits.
    pub fn key_path(&self) -> PathBuf {
        self.keyring.path()
    }

    /// Believes from now on, on this machine, what this key signs, because somebody says so.
    pub fn trust(&self, key: LogKey) -> Result<()> {
        self.keyring.trust(key)?;
        self.keyring.tell()
    }

    /// Whether somebody has said on this machine that this log is the right one. That a standby has met it
    /// says nothing about others, which followed another one at its address.
    pub fn is_told(&self) -> Result<bool> {
        self.keyring.is_told()
    }

    /// Whether this machine has a key of it already.
    fn is_known(&self) -> Result<bool> {
        self.keyring.trusted().map(|keys| !keys.is_empty())
    }

    /// Whom it believed this time it believes from now on, too.
    pub fn trust_as_now(&self) -> Result<()> {
        self.trusted.iter().try_for_each(|key| self.keyring.trust(*key))
    }

    /// The key that signs on this machine; None if it has none, and cannot get the one that lies in the log.
    pub(crate) fn signer(&self) -> Result<Option<Signer>> {
        if let Some(signer) = self.keyring.signer()? {
            return Ok(Some(signer));
        }
        let Some(signer) = self.format.sealed_signer(&self.seals) else { return Ok(None) };
        // Anybody can encrypt a key to these recipients, so that of a log is kept once it is believed.
        if self.is_known()? {
            self.keyring.keep_signer(&signer)?;
        }
        Ok(Some(signer))
    }

    /// Fails if this machine cannot sign what it publishes.
    pub fn can_sign(&self) -> Result<()> {
        self.needed_signer().map(drop)
    }

    pub(crate) fn needed_signer(&self) -> Result<Signer> {
        self.signer()?.ok_or_else(|| self.cannot_sign())
    }

    /// Makes a key of its own for this machine, if it has none. Tells a key which is not that of the log:
    /// those who read it must be told, again if an earlier try was interrupted.
    pub fn need_signer(&self) -> Result<Option<LogKey>> {
        let signer = match self.signer()? {
            Some(signer) => signer,
            None => {
                // Whoever forgot to name an identity has the key of the log.
                self.expect_open()?;
                // With a key of its own alone this machine would not know the log any more.
                self.trust_as_now()?;
                let signer = Signer::new()?;
                self.keyring.keep_signer(&signer)?;
                signer
            }
        };
        Ok(Some(signer.key()).filter(|key| *key != self.format.signer))
    }

    /// The numbers of packs in the addresses of its snapshots.
    pub(crate) fn numbers(&self) -> &PackNumbers {
        &self.numbers
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    pub fn address(&self) -> &LogAddress {
        self.objects.address()
    }

    pub(crate) fn own_key(&self) -> Option<LogKey> {
        self.keyring.signer().ok().flatten().map(|signer| signer.key())
    }

    pub(crate) fn cannot_sign(&self) -> Error {
        let path = self.key_path();
        let name = path.file_name().unwrap_or_default().display();
        Error::refused(
            format!("this machine does not have the key that signs for {}", self.address()),
            format!(
                "copy {name} to {} from the machine where the log began or was written to; in an encrypted \
                 log an identity does too",
                path.display()
            ),
        )
    }

    pub(crate) fn unopened(&self, key: &str, why: Unopened) -> Error {
        match why {
            Unopened::Damaged => self.objects.damaged(key, "it cannot be decrypted"),
            Unopened::NoIdentity => Error::usage(
                format!("{} is encrypted, and no identity that opens it is at hand", self.address()),
                "set SNAPSYNC_IDENTITY to the file that `age-keygen` made",
            ),
        }
    }
}
