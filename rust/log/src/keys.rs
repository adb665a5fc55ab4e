//! Keys that sign what a primary writes into a log, and that those who read it know: Ed25519 (RFC 8032).

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use snapsync_model::{Error, Result};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// The field of a record that holds the signature of all the others.
const SIGNATURE: &str = "signature";
/// The bytes of one.
pub(crate) const SIGNED: usize = 64;

/// The public half of a key: 32 bytes, written in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogKey([u8; 32]);

impl fmt::Display for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for LogKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for LogKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<LogKey> {
        let key = bytes_of(text.trim()).map(LogKey).filter(|key| VerifyingKey::from_bytes(&key.0).is_ok());
        key.ok_or_else(|| {
            Error::usage(format!("{text:?} is no key of a log"), "a key has 64 hexadecimal digits")
        })
    }
}

impl TryFrom<String> for LogKey {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<LogKey, String> {
        text.parse().map_err(|e: Error| e.sentence())
    }
}

impl From<LogKey> for String {
    fn from(key: LogKey) -> String {
        key.to_string()
    }
}

/// A key with its secret half.
#[derive(Clone)]
pub(crate) struct Signer(SigningKey);

impl Signer {
    pub(crate) fn new() -> Result<Signer> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|e| Error::failed(format!("cannot get random bytes: {e}"), "try again"))?;
        Ok(Signer(SigningKey::from_bytes(&seed)))
    }

    /// None if it is none.
    pub(crate) fn from_text(text: &str) -> Option<Signer> {
        bytes_of(text.trim()).map(|seed| Signer(SigningKey::from_bytes(&seed)))
    }

    /// The secret half in hexadecimal.
    pub(crate) fn to_text(&self) -> String {
        hex(self.0.as_bytes())
    }

    pub(crate) fn key(&self) -> LogKey {
        LogKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a record of a log, and puts the signature into it.
    pub(crate) fn sign(&self, log: Uuid, record: &mut Value) {
        record[SIGNATURE] = hex(&self.signature(log, record)).into();
    }

    /// The signature of a record that is kept elsewhere.
    pub(crate) fn signature(&self, log: Uuid, record: &Value) -> [u8; SIGNED] {
        self.0.sign(&message(log, record)).to_bytes()
    }
}

/// Whether `key` has signed a record of a log.
pub(crate) fn is_signed_by(key: LogKey, log: Uuid, record: &Value) -> bool {
    let signature = record.get(SIGNATURE).and_then(Value::as_str).and_then(bytes_of);
    signature.is_some_and(|signature| is_signature(&signature, key, log, record))
}

/// The same for a signature that is kept elsewhere.
pub(crate) fn is_signature(signature: &[u8; SIGNED], key: LogKey, log: Uuid, record: &Value) -> bool {
    let signature = Signature::from_bytes(signature);
    let key = VerifyingKey::from_bytes(&key.0);
    key.is_ok_and(|key| key.verify_strict(&message(log, record), &signature).is_ok())
}

/// What is signed: the id of the log, and the record without its signature, as JSON whose keys are sorted and
/// which has no spaces.
fn message(log: Uuid, record: &Value) -> Vec<u8> {
    let mut unsigned = record.clone();
    unsigned.as_object_mut().map(|fields| fields.remove(SIGNATURE));
    format!("snapsync {log}\n{unsigned}").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = text.len() == 2 * N && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok();
    let bytes: Option<Vec<u8>> = if is_hex { (0..N).map(byte).collect() } else { None };
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_signed_with_the_key_for_the_log_is_believed() {
        let (signer, log) = (Signer::new().unwrap(), Uuid::new_v4());
        let mut record = json!({ "z": 1, "a": { "y": "\u{7f}ü\n", "b": null } });
        signer.sign(log, &mut record);
        assert!(is_signed_by(signer.key(), log, &record));
        assert!(!is_signed_by(Signer::new().unwrap().key(), log, &record));
        assert!(!is_signed_by(signer.key(), Uuid::new_v4(), &record));
        record["z"] = 2.into();
        assert!(!is_signed_by(signer.key(), log, &record));
        let again = Signer::from_text(&signer.to_text()).unwrap();
        assert_eq!(again.key(), signer.key().to_string().parse().unwrap());
    }

    /// Others may have to check signatures, in other languages.
    #[test]
    fn the_message_is_sorted_json() {
        let record = json!({ "z": 1, "signature": "x", "a": { "y": 2, "b": [true] } });
        let message = String::from_utf8(message(Uuid::nil(), &record)).unwrap();
        assert_eq!(message, format!("snapsync {}\n{}", Uuid::nil(), r#"{"a":{"b":[true],"y":2},"z":1}"#));
    }
}
