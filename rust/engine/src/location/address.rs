//! A place on another machine.

use snapsync_model::{Error, Result};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `[user@]host:PATH`: a path with a colon before its first slash.
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) path: Vec<u8>,
}

impl Address {
    /// Returns None for a path on this machine.
    pub(crate) fn parse(text: &Path) -> Result<Option<Address>> {
        let bytes = text.as_os_str().as_bytes();
        is_no_url(text)?;
        let before_slash = bytes.split(|b| *b == b'/').next().unwrap_or_default();
        // An IPv6 address is in brackets.
        let from =
            if before_slash.contains(&b'[') { before_slash.iter().position(|b| *b == b']') } else { Some(0) };
        let colon =
            from.and_then(|from| before_slash[from..].iter().position(|b| *b == b':').map(|at| from + at));
        let Some(colon) = colon else { return Ok(None) };
        let host = String::from_utf8_lossy(&bytes[..colon]).replace(['[', ']'], "");
        if host.is_empty() || host.starts_with('-') {
            let what = format!("{} names no host", text.display());
            return Err(Error::usage(what, "write [user@]host:PATH, or ./PATH for a name with a colon"));
        }
        Ok(Some(Address { host, path: bytes[colon + 1..].to_vec() }))
    }

    pub(crate) fn show(&self) -> String {
        shown(&self.host, &String::from_utf8_lossy(&self.path))
    }
}

/// `host:PATH` in a form that can be used again: an IPv6 address is in brackets.
pub(crate) fn shown(host: &str, path: &str) -> String {
    match host.rsplit_once('@').map_or(("", host), |(user, host)| (user, host)) {
        (_, address) if !address.contains(':') => format!("{host}:{path}"),
        ("", address) => format!("[{address}]:{path}"),
        (user, address) => format!("{user}@[{address}]:{path}"),
    }
}

/// Refuses `ssh://[user@]host[:port]/path`, which other programs accept: the part before its first colon is
/// not a host.
fn is_no_url(text: &Path) -> Result<()> {
    let whole = text.to_string_lossy();
    let Some((scheme, rest)) = whole.split_once("://") else { return Ok(()) };
    let is_word = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+.-".contains(c));
    if !is_word {
        return Ok(());
    }
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let port = place.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let (host, port) =
        port.map_or((place, String::new()), |(host, port)| (host, format!(" with `-o Port={port}`")));
    Err(Error::usage(
        format!("{whole} is no place that snapsync understands"),
        match scheme {
            "ssh" | "sftp" | "scp" => format!("write it as {host}:/{path}{port}"),
            "file" => format!("write the path alone: /{path}"),
            _ => format!("write [user@]host:PATH, or ./{whole} for a directory of that name"),
        },
    ))
}
