//! What makes a prefix a log: `format.json`.

use crate::keys::{LogKey, Signer, is_signed_by};
use crate::seals::{Seals, recipients};
use crate::store::{LogAddress, Objects};
use age::x25519::Recipient;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapsync_model::{Error, Result};
use uuid::Uuid;

pub(crate) const FORMAT: &str = "format.json";
/// The version that this code writes, and the newest that it reads.
const VERSION: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Format {
    snapsync: String,
    version: u32,
    pub(crate) id: Uuid,
    /// The key that signs it, and all commits until another one is known.
    pub(crate) signer: LogKey,
    /// To whom it is encrypted: recipients of age.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recipients: Vec<String>,
    /// The secret half of the key, encrypted to them, as a file of age in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sealed_key: Option<String>,
}

impl Format {
    /// That of a new log, and the key that signs in it.
    pub(crate) fn new(to: &[String]) -> Result<(Format, Signer)> {
        let signer = Signer::new()?;
        let seals = Seals::new(recipients(to)?)?;
        let sealed = || seals.seal(signer.to_text().into_bytes()).map(|sealed| BASE64.encode(sealed));
        let sealed_key = seals.are_used().then(sealed).transpose()?;
        let (snapsync, id) = ("log".to_owned(), Uuid::new_v4());
        let (version, signer_key) = (VERSION, signer.key());
        let recipients = to.to_vec();
        Ok((Format { snapsync, version, id, signer: signer_key, recipients, sealed_key }, signer))
    }

    pub(crate) fn signed(&self, signer: &Signer) -> Result<Vec<u8>> {
        let failed = |e| Error::failed(format!("cannot describe a log: {e}"), "report this");
        let mut record = serde_json::to_value(self).map_err(failed)?;
        signer.sign(self.id, &mut record);
        serde_json::to_vec_pretty(&record).map_err(failed)
    }

    /// None if there is none.
    pub(crate) fn read(objects: &Objects) -> Result<Option<Format>> {
        let Some(bytes) = objects.get(FORMAT, 1 << 16)? else { return Ok(None) };
        let none = |e| objects.damaged(FORMAT, &format!("it is not what a log begins with: {e}"));
        let record: Value = serde_json::from_slice(&bytes).map_err(none)?;
        let version = record.get("version").and_then(Value::as_u64).unwrap_or_default();
        if version > VERSION.into() {
            return Err(Error::refused(
                format!("{} has version {version} of the format", objects.address()),
                "use the newer snapsync that made it",
            ));
        }
        let format = Format::deserialize(&record).map_err(none)?;
        if !is_signed_by(format.signer, format.id, &record) {
            return Err(objects.damaged(FORMAT, "it is not what was signed"));
        }
        Ok(Some(format))
    }

    pub(crate) fn recipients(&self) -> Result<Vec<Recipient>> {
        recipients(&self.recipients)
    }

    /// The key that signs, if it lies in the log and can be opened here.
    pub(crate) fn sealed_signer(&self, seals: &Seals) -> Option<Signer> {
        let sealed = BASE64.decode(self.sealed_key.as_ref()?).ok()?;
        let signer = Signer::from_text(&String::from_utf8(seals.open(sealed).ok()?).ok()?)?;
        (signer.key() == self.signer).then_some(signer)
    }

    /// Fails if it should be encrypted to these, and is not. Without any, nobody has asked for that.
    pub(crate) fn is_encrypted_to(&self, address: &LogAddress, to: &[String]) -> Result<()> {
        if to.is_empty() || self.recipients == to {
            return Ok(());
        }
        let how = match &self.recipients[..] {
            [] => "is not encrypted".to_owned(),
            others => format!("is encrypted to {}", others.join(", ")),
        };
        Err(Error::refused(
            format!("{address} is a log already, and {how}"),
            "whom a log is encrypted to stays as it is: begin a new one at another prefix",
        ))
    }
}
