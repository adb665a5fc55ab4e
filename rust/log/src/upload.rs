//! An upload that has not been committed yet: what it is of, and what of it is there. What is signed goes by
//! it, so only what the primary itself has signed is believed of it.

use crate::commit::{Commit, Deed, StoredObject};
use crate::footer;
use crate::keyring::UploadKey;
use crate::keys::is_signed_by;
use crate::log::Log;
use age::secrecy::ExposeSecret;
use age::x25519::Identity;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapsync_manifest::FrameRow;
use snapsync_model::{Error, Result};
use std::collections::BTreeSet;
use uuid::Uuid;

/// It is that of the primary, of which there is one.
const UPLOAD: &str = "upload.json";
const LARGEST: u64 = 64 << 20;

/// What is being uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub snapshot: Uuid,
    pub base: Option<Uuid>,
    /// BLAKE3 of the manifest in hexadecimal.
    pub manifest: String,
    /// Where its packs are: a folder for each pass, oldest first. The last one gets more.
    pub folders: Vec<UploadFolder>,
    /// The newest commit when its first pack came; None before the first.
    pub after: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadFolder {
    pub key: String,
    /// The inodes whose data is another one in later passes.
    #[serde(default)]
    pub stale: BTreeSet<u64>,
}

impl Upload {
    /// The first pass of an upload.
    pub fn new(snapshot: Uuid, base: Option<Uuid>, manifest: String, after: Option<u64>) -> Upload {
        let mut upload = Upload { snapshot, base, manifest: String::new(), folders: Vec::new(), after };
        upload.begin_pass(manifest, &BTreeSet::new());
        upload
    }

    /// Another pass, with another manifest; `stale` are the inodes whose data is another one in it.
    pub fn begin_pass(&mut self, manifest: String, stale: &BTreeSet<u64>) {
        self.manifest = manifest;
        self.folders.iter_mut().for_each(|folder| folder.stale.extend(stale));
        let key = format!("packs/{}/{}", self.snapshot, Uuid::new_v4().simple());
        self.folders.push(UploadFolder { key, stale: BTreeSet::new() });
    }

    /// Where more packs come.
    pub fn folder(&self) -> Result<&str> {
        let last = self.folders.last().map(|folder| folder.key.as_str());
        last.ok_or_else(|| Error::failed("an upload has no folder", "report this"))
    }
}

/// The packs of an upload that are there, and their frames, sorted.
#[derive(Debug, Default)]
pub struct Uploaded {
    pub packs: Vec<StoredObject>,
    pub frames: Vec<FrameRow>,
}

impl Log {
    pub fn note_upload(&self, upload: &Upload) -> Result<()> {
        let signer = self.needed_signer()?;
        let signed = serde_json::to_value(upload).and_then(|mut record| {
            signer.sign(self.id(), &mut record);
            serde_json::to_vec_pretty(&record)
        });
        let bytes = signed.map_err(|e| {
            Error::failed(format!("cannot describe an upload to {}: {e}", self.address()), "")
        })?;
        if self.is_encrypted() {
            self.begin_upload_key(upload.snapshot)?;
        }
        self.objects().put(UPLOAD, self.seals.seal_upload(bytes)?)
    }

    /// A primary may be unable to read an encrypted log, but goes on with its own upload.
    fn begin_upload_key(&self, snapshot: Uuid) -> Result<()> {
        let known = self.keyring.upload_key()?.filter(|known| known.snapshot == snapshot);
        let known = known.and_then(|known| known.identity.parse::<Identity>().ok());
        let identity = known.unwrap_or_else(Identity::generate);
        let text = identity.to_string().expose_secret().to_owned();
        self.keyring.keep_upload_key(&UploadKey { snapshot, identity: text })?;
        self.seals.set_upload(Some(identity));
        Ok(())
    }

    /// After its commit nobody without an identity of the log can read it any more.
    pub fn end_upload(&self) -> Result<()> {
        self.seals.set_upload(None);
        self.keyring.forget_upload_key()
    }

    /// The upload that was cut and can go on. What was there when a commit let something go may be deleted at
    /// any moment.
    pub fn upload(&self, head: Option<&Commit>) -> Result<Option<Upload>> {
        let Some(bytes) = self.objects().get(UPLOAD, LARGEST)? else { return Ok(None) };
        let known = self.keyring.upload_key()?.and_then(|known| known.identity.parse::<Identity>().ok());
        self.seals.set_upload(known);
        let Ok(bytes) = self.seals.open(bytes) else { return Ok(None) };
        // It is only a help, and one of somebody else or of another version is of none.
        let Ok(record) = serde_json::from_slice::<Value>(&bytes) else { return Ok(None) };
        let Some(signer) = self.signer()? else { return Ok(None) };
        let Ok(upload) = Upload::deserialize(&record) else { return Ok(None) };
        if !is_signed_by(signer.key(), self.id(), &record) {
            return Ok(None);
        }
        let is_since = |commit: &Commit| upload.after.is_some_and(|after| commit.sequence == after + 1);
        let since = match head.filter(|head| Some(head.sequence) != upload.after) {
            Some(head) => self.line(head.clone(), is_since)?,
            None => Vec::new(),
        };
        let is_over =
            |commit: &Commit| matches!(commit.deed, Deed::Pruned { .. }) || commit.is_of(upload.snapshot);
        let within = format!("packs/{}/", upload.snapshot);
        let is_sound =
            upload.folders.iter().all(|folder| folder.key.starts_with(&within)) && !since.iter().any(is_over);
        let is_done = head.is_some_and(|head| head.is_of(upload.snapshot));
        Ok(Some(upload).filter(|_| is_sound && !is_done))
    }

    /// What of an upload is there.
    pub fn uploaded(&self, upload: &Upload) -> Result<Uploaded> {
        let (mut found, signer) = (Uploaded::default(), self.needed_signer()?);
        for folder in &upload.folders {
            let mut listed = self.objects().list_all(&folder.key)?;
            listed.sort_unstable();
            for (key, size) in listed {
                let name = key.rsplit('/').next().unwrap_or_default();
                let digest = name.split_once('-').map(|(_, digest)| digest.to_owned());
                let Some(blake3) = digest.filter(|digest| digest.len() == 64) else { continue };
                let number = found.packs.len() as u32;
                let told = match footer::read((self, &signer), &folder.key, (&key, size), number) {
                    // It is damaged, or somebody else's: its frames are sent again.
                    Err(Error::Integrity { .. } | Error::Usage { .. }) => None,
                    told => told?,
                };
                let Some(frames) = told else { continue };
                found.frames.extend(frames.into_iter().filter(|frame| !folder.stale.contains(&frame.ino)));
                found.packs.push(StoredObject { key, size, blake3 });
            }
        }
        found.frames.sort_unstable();
        // Somebody may have copied a pack.
        found.frames.dedup_by_key(|frame| (frame.ino, frame.offset));
        Ok(found)
    }
}
