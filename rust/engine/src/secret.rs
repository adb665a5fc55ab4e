//! The secret that identifies a standby: the primary makes it, the standby keeps and shows it, and the
//! primary remembers its hash.

use crate::digest::hex;
use serde::{Deserialize, Serialize};
use snapsync_model::{Error, Result};
use std::fmt;

/// 32 random bytes in hexadecimal.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new() -> Result<Secret> {
        Ok(Secret(hex(&random::<32>()?)))
    }

    pub(crate) fn kept(text: &str) -> Secret {
        Secret(text.to_owned())
    }

    /// Whether a primary could have made it: anything else would only fill the standby's store.
    pub(crate) fn is_sound(&self) -> bool {
        self.0.len() == 64 && self.0.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn hash(&self) -> String {
        blake3::hash(self.0.as_bytes()).to_hex().to_string()
    }

    /// Compares in constant time.
    pub(crate) fn has_hash(&self, hash: &str) -> bool {
        blake3::Hash::from_hex(hash).is_ok_and(|hash| hash == blake3::hash(self.0.as_bytes()))
    }
}

/// Debug output must not contain the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Random bytes from the kernel. Early after boot this may wait.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(Error::failed(format!("cannot get random bytes: {e}"), "")),
        }
    }
    Ok(bytes)
}
