//! The keys of logs that a machine has, as it has those of the hosts that it knows by ssh: with one it signs
//! what it publishes, and by the others it knows whom to believe.

use crate::keys::{LogKey, Signer};
use serde::{Deserialize, Serialize};
use snapsync_model::{Context, Error, Result};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::{env, fs};
use uuid::Uuid;

/// Names another directory.
const KEYS: &str = "SNAPSYNC_KEYS";

/// The files of one log in the directory of keys.
#[derive(Clone, Debug)]
pub(crate) struct Keyring {
    dir: PathBuf,
    log: Uuid,
}

/// The key by which an upload that was cut can be read back, by who cannot read anything else.
#[derive(Serialize, Deserialize)]
pub(crate) struct UploadKey {
    pub(crate) snapshot: Uuid,
    /// An identity of age.
    pub(crate) identity: String,
}

impl Keyring {
    pub(crate) fn of(log: Uuid) -> Result<Keyring> {
        let told = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = || Some(told(env::var_os("HOME"))?.join(".local/share"));
        let own = || told(env::var_os("XDG_DATA_HOME")).or_else(home);
        let dir = told(env::var_os(KEYS)).or_else(|| match rustix::process::geteuid().is_root() {
            true => Some("/var/lib/snapsync/keys".into()),
            false => Some(own()?.join("snapsync/keys")),
        });
        let dir = dir.ok_or_else(|| {
            Error::usage("there is no home directory for the keys of logs", format!("set {KEYS}"))
        })?;
        Ok(Keyring { dir, log })
    }

    /// Where the key is that signs, or is to be.
    pub(crate) fn path(&self) -> PathBuf {
        self.file("key")
    }

    fn file(&self, what: &str) -> PathBuf {
        self.dir.join(format!("{}.{what}", self.log))
    }

    pub(crate) fn signer(&self) -> Result<Option<Signer>> {
        let path = self.path();
        let Some(text) = read(&path)? else { return Ok(None) };
        let signer = Signer::from_text(&text);
        signer.map(Some).ok_or_else(|| {
            Error::usage(format!("{} holds no key", path.display()), "copy it again from where the log began")
        })
    }

    pub(crate) fn keep_signer(&self, signer: &Signer) -> Result<()> {
        self.write("key", &signer.to_text())
    }

    pub(crate) fn forget_signer(&self) -> Result<()> {
        remove(&self.path())
    }

    /// The keys that are believed. None are before the log was met for the first time.
    pub(crate) fn trusted(&self) -> Result<BTreeSet<LogKey>> {
        let path = self.file("trusted");
        let mut keys = BTreeSet::new();
        if let Some(listed) = read(&path)? {
            let read = listed.lines().map(|line| line.parse().ok()).collect::<Option<BTreeSet<LogKey>>>();
            // Without any of them this machine would believe whatever is in the log.
            keys = read.filter(|keys| !keys.is_empty()).ok_or_else(|| {
                Error::usage(
                    format!("{} does not hold the keys that are believed", path.display()),
                    "bring it back; if you remove it, the log is believed as if it were new to this machine",
                )
            })?;
        }
        keys.extend(self.signer()?.map(|signer| signer.key()));
        Ok(keys)
    }

    pub(crate) fn trust(&self, key: LogKey) -> Result<()> {
        let mut keys = self.trusted()?;
        if !keys.insert(key) {
            return Ok(());
        }
        self.write("trusted", &keys.iter().map(LogKey::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// Whether somebody said on this machine that the log is the right one: who began it, or called `trust`.
    pub(crate) fn is_told(&self) -> Result<bool> {
        Ok(read(&self.file("told"))?.is_some())
    }

    pub(crate) fn tell(&self) -> Result<()> {
        self.write("told", "this log may take the place of another one")
    }

    /// It is only a help, and one that cannot be read is none.
    pub(crate) fn upload_key(&self) -> Result<Option<UploadKey>> {
        Ok(read(&self.file("upload"))?.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(crate) fn keep_upload_key(&self, key: &UploadKey) -> Result<()> {
        let text = serde_json::to_string(key)
            .map_err(|e| Error::failed(format!("cannot write a key: {e}"), "report this"))?;
        self.write("upload", &text)
    }

    pub(crate) fn forget_upload_key(&self) -> Result<()> {
        remove(&self.file("upload"))
    }

    /// Replaces a file as a whole, for its owner alone.
    fn write(&self, what: &str, text: &str) -> Result<()> {
        let (dir, path) = (&self.dir, self.file(what));
        DirBuilder::new().recursive(true).mode(0o700).create(dir).context("make", dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir).context("make a file in", dir)?;
        let written = writeln!(file, "{text}").and_then(|()| file.as_file().sync_all());
        written.context("write", &path)?;
        file.persist(&path).map_err(|e| e.error).context("write", &path)?;
        fs::File::open(dir).and_then(|dir| dir.sync_all()).context("write", dir)
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context("read", path),
    }
}

fn remove(path: &Path) -> Result<()> {
    // In a directory that cannot be written even the removal of what is not there fails.
    if fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).context("remove", path),
        _ => Ok(()),
    }
}
