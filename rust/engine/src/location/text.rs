//! Where something is, as people write it: `PATH`, `VOLUME@SNAP`, `VOLUME@PART/` or `VOLUME@PART/SNAP`, and
//! each of them after `[user@]host:`; or a log, as `s3://BUCKET/PREFIX` or `file:///DIR`, and `LOG@SNAP`.
//!
//! This is about texts only. Whether a directory has a name that looks like a snapshot or a part of a volume
//! is seen where it is opened.

use snapsync_log::LogAddress;
use snapsync_model::{Error, Result, can_name_snapshot};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::Ipv6Addr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A machine, and who logs in there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    user: Option<String>,
    /// Without the brackets of an IPv6 address.
    name: String,
}

impl Host {
    /// A machine that is known by its name or address.
    pub(crate) fn called(name: &str) -> Host {
        Host { user: None, name: name.to_owned() }
    }

    /// Returns None where `ssh` would take it for something else than a machine.
    fn parse(text: &[u8]) -> Option<Host> {
        let text = std::str::from_utf8(text).ok()?;
        let (user, name) = text.rsplit_once('@').map_or((None, text), |(user, name)| (Some(user), name));
        let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let name = inner.unwrap_or(name);
        let is_word = |word: &str| {
            let strange = |c: char| c.is_whitespace() || c.is_control() || "[]".contains(c);
            !word.is_empty() && !word.starts_with('-') && !word.contains(strange)
        };
        (is_word(name) && user.is_none_or(is_word))
            .then(|| Host { user: user.map(str::to_owned), name: name.to_owned() })
    }

    /// The form that `ssh` takes, which has no brackets.
    pub(crate) fn for_ssh(&self) -> String {
        match &self.user {
            Some(user) => format!("{user}@{}", self.name),
            None => self.name.clone(),
        }
    }

    fn is_same_machine(&self, other: &Host) -> bool {
        self.name.to_lowercase() == other.name.to_lowercase()
    }
}

/// Written with an IPv6 address in brackets.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.user.iter().try_for_each(|user| write!(f, "{user}@"))?;
        if self.name.contains(':') { write!(f, "[{}]", self.name) } else { f.write_str(&self.name) }
    }
}

/// Where something is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// None for this machine.
    pub host: Option<Host>,
    /// Up to the snapshot; that of a part ends with a slash.
    pub path: PathBuf,
    /// The name of a part, which `path` ends with.
    pub part: Option<OsString>,
    /// What follows the last `@` of the last name, or the slash after a part.
    pub snapshot: Option<OsString>,
    /// Whether `path` is the address of a log.
    pub is_log: bool,
}

/// The port and the path of `PORT:/PATH`.
fn with_port(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = path.iter().position(|b| *b == b':')?;
    let (port, rest) = (&path[..colon], &path[colon + 1..]);
    let is_port = !port.is_empty() && port.iter().all(u8::is_ascii_digit);
    (is_port && rest.starts_with(b"/")).then_some((port, rest))
}

impl Location {
    /// Refuses what a typing mistake may have made: a host that is none, or nothing after one.
    pub fn parse(text: &Path) -> Result<Location> {
        if let Some((log, snapshot)) = LogAddress::parse_snapshot(text)? {
            let (path, snapshot) = (log.to_string().into(), snapshot.map(OsString::from));
            return Ok(Location { host: None, path, part: None, snapshot, is_log: true });
        }
        is_no_url(text)?;
        let bytes = text.as_os_str().as_bytes();
        let Some(colon) = end_of_host(bytes) else { return Ok(Location::here(text)) };
        let wrong = |what: &str, advice: String| {
            Err(Error::usage(format!("`{}` is no place: {what}", text.display()), advice))
        };
        if let Some((host, path)) = without_brackets(bytes) {
            let path = OsStr::from_bytes(path).display();
            return wrong("an IPv6 address is in brackets", format!("write {host}:{path}"));
        }
        let Some(host) = Host::parse(&bytes[..colon]) else {
            return wrong(
                "it names no host",
                "write [user@]host:PATH, an IPv6 address in brackets, or ./PATH for a name with a colon"
                    .into(),
            );
        };
        match &bytes[colon + 1..] {
            [] => wrong(
                "it names no directory",
                format!("write {host}:PATH; {host}:. is the home directory there"),
            ),
            [b':', ..] => {
                wrong("it has two colons", format!("write {host}:PATH; ./ goes before a name with a colon"))
            }
            path @ [b'/', ..] if bytes.starts_with(b"file:") => {
                let path = OsStr::from_bytes(path).display();
                wrong("a log in a directory has two more slashes", format!("write file://{path}"))
            }
            path if with_port(path).is_some() => {
                let (port, path) = with_port(path).unwrap_or_default();
                let (port, path) = (OsStr::from_bytes(port).display(), OsStr::from_bytes(path).display());
                wrong("a port is no part of it", format!("write {host}:{path}, with -o Port={port}"))
            }
            path => Ok(Location { host: Some(host), ..Location::here(Path::new(OsStr::from_bytes(path))) }),
        }
    }

    /// On this machine, with whatever colons.
    pub(crate) fn here(path: &Path) -> Location {
        let bytes = path.as_os_str().as_bytes();
        let text = |bytes: &[u8]| OsStr::from_bytes(bytes).to_owned();
        let name = start_of_name(bytes);
        let (path, part, snapshot) = match (at_in(bytes), name.checked_sub(1).map(|end| &bytes[..end])) {
            (Some(at), _) => (&bytes[..at], None, Some(text(&bytes[at + 1..]))),
            (None, Some(above)) if !matches!(&bytes[name..], b"." | b"..") => match at_in(above) {
                Some(at) => {
                    let snapshot = Some(&bytes[name..]).filter(|name| !name.is_empty());
                    (&bytes[..name], Some(text(&above[at + 1..])), snapshot.map(text))
                }
                None => (bytes, None, None),
            },
            _ => (bytes, None, None),
        };
        Location { host: None, path: OsStr::from_bytes(path).into(), part, snapshot, is_log: false }
    }

    /// How a part of the tree at a place is written, wherever that is.
    pub fn part_of(text: &Path, part: &OsStr) -> Result<PathBuf> {
        let location = Location::parse(text)?;
        can_name_part(part)?;
        let bytes = text.as_os_str().as_bytes();
        let bare = bytes.iter().rposition(|b| *b != b'/').map_or(bytes, |last| &bytes[..=last]);
        let with = |between: &[u8]| {
            let whole = [bare, between, b"@", part.as_bytes(), b"/"].concat();
            PathBuf::from(OsString::from_vec(whole))
        };
        // A directory comes before a part of the same name, and on another machine nobody can look for one.
        let is_hidden = location.host.is_some() || with(b"").is_dir();
        Ok(with(if is_hidden { b"/." } else { b"" }))
    }

    /// Whether it is a part and none of its snapshots, if no directory has that name.
    pub(crate) fn is_part(&self) -> bool {
        self.part.is_some() && self.snapshot.is_none()
    }

    /// The directory that has the part in it, and the name of the part.
    pub(crate) fn of_part(&self) -> Option<(PathBuf, &OsStr)> {
        let part = self.part.as_deref()?;
        let path = self.path.as_os_str().as_bytes();
        let length = path.len().checked_sub(part.len() + "@/".len())?;
        Some((OsStr::from_bytes(&path[..length]).into(), part))
    }

    /// Parses what a volume has recorded. Older ones record IPv6 addresses without brackets.
    pub fn known(text: &Path) -> Location {
        let Ok(location) = Location::parse(text) else {
            let bytes = text.as_os_str().as_bytes();
            return match without_brackets(bytes) {
                Some((host, path)) => {
                    Location { host: Some(host), ..Location::here(Path::new(OsStr::from_bytes(path))) }
                }
                None => Location::here(text),
            };
        };
        location
    }

    /// All that follows the host: what a directory may be called.
    pub fn whole(&self) -> PathBuf {
        let mut whole = self.path.clone().into_os_string();
        if let Some(snapshot) = &self.snapshot {
            whole.push(if self.part.is_none() { "@" } else { "" });
            whole.push(snapshot);
        }
        whole.into()
    }

    /// What is asked for on another machine, if it is there.
    pub(crate) fn there(&self) -> Option<Address> {
        let host = self.host.clone()?;
        Some(Address { host, path: self.whole().into_os_string().into_vec() })
    }

    /// Whether `place` may be a name of this place, whoever logs in there. A path of `place` may be relative
    /// to a home, and then it is that of one user.
    pub fn is_at(&self, place: &Location) -> bool {
        let (known, path) = (tidy(&self.whole()), tidy(&place.whole()));
        if self.is_part() != place.is_part() {
            return false;
        }
        match (&self.host, &place.host) {
            (None, None) => known == path,
            (Some(one), Some(other)) if one.is_same_machine(other) => {
                let path = path.strip_prefix("~").or_else(|_| path.strip_prefix(".")).unwrap_or(&path);
                known == path || (one.user == other.user && path.is_relative() && known.ends_with(path))
            }
            _ => false,
        }
    }
}

/// As it can be written again; bytes that are not text are replaced.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.host.iter().try_for_each(|host| write!(f, "{host}:"))?;
        self.whole().display().fmt(f)
    }
}

/// A place on another machine, as it is asked for there.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) host: Host,
    pub(crate) path: Vec<u8>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, String::from_utf8_lossy(&self.path))
    }
}

/// The name of a part as text; refuses what could be taken for something else.
pub(crate) fn can_name_part(part: &OsStr) -> Result<&str> {
    part.to_str().filter(|name| can_name_snapshot(name)).ok_or_else(|| {
        Error::usage(
            format!("{:?} cannot be the name of a part", part.to_string_lossy()),
            "use at most 200 bytes of characters that are seen, without `/` or `@`; not only digits, not \
             `latest`, and no `-` or `.` in front",
        )
    })
}

/// Where the last name of a path begins.
fn start_of_name(path: &[u8]) -> usize {
    path.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1)
}

/// Where the last name of a path has its last `@`, with something on both sides of it.
fn at_in(path: &[u8]) -> Option<usize> {
    let name = start_of_name(path);
    let at = name + path[name..].iter().rposition(|b| *b == b'@')?;
    Some(at).filter(|at| *at > 0 && at + 1 < path.len())
}

/// Where the colon after a host is: before the first slash, and after an address in brackets. The first colon
/// of a time, as in `VOLUME@2026-11-25T14:00`, follows no host.
fn end_of_host(bytes: &[u8]) -> Option<usize> {
    let head = bytes.split(|b| *b == b'/').next().unwrap_or_default();
    let first = head.iter().position(|b| *b == b':')?;
    let open = head[..first].iter().position(|b| *b == b'[');
    let open = open.filter(|at| *at == 0 || head[at - 1] == b'@');
    let after = open.and_then(|open| Some(open + head[open..].iter().position(|b| *b == b']')? + 1));
    let colon = after.filter(|after| head.get(*after) == Some(&b':')).unwrap_or(first);
    let name = head[..colon].rsplit(|b| *b == b'@').next().filter(|name| name.len() < colon);
    Some(colon).filter(|_| !name.is_some_and(ends_in_hour))
}

/// Whether it is the beginning of a date and time, up to the hour.
fn ends_in_hour(text: &[u8]) -> bool {
    let is_as = |(byte, form): (&u8, u8)| match form {
        b'0' => byte.is_ascii_digit(),
        mark => byte.eq_ignore_ascii_case(&mark) || (mark == b'T' && *byte == b' '),
    };
    text.len() == 13 && text.iter().zip(*b"0000-00-00T00").all(is_as)
}

/// The host and the path of `[user@]host:PATH`, where that host is an IPv6 address without its brackets.
fn without_brackets(bytes: &[u8]) -> Option<(Host, &[u8])> {
    let head = bytes.split(|b| *b == b'/').next().unwrap_or_default();
    let colon = head.iter().rposition(|b| *b == b':')?;
    let host = Host::parse(&head[..colon])?;
    let address = host.name.split('%').next().unwrap_or_default();
    let is_bare = head[..colon].last() != Some(&b']') && address.parse::<Ipv6Addr>().is_ok();
    is_bare.then(|| (host, &bytes[colon + 1..]))
}

/// Without what makes no difference: slashes at its end, several of them, dots.
fn tidy(path: &Path) -> PathBuf {
    path.components().collect()
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
        format!("{whole} is not an address that snapsync understands"),
        match scheme {
            "ssh" | "sftp" | "scp" => format!("write it as {host}:/{path}{port}"),
            _ => format!("write [user@]host:PATH, or ./{whole} for a directory of that name"),
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Location> {
        Location::parse(Path::new(OsStr::from_bytes(text)))
    }

    /// Written again with all its bytes, which `Display` does not have.
    fn written(location: &Location) -> Vec<u8> {
        let host = location.host.as_ref().map_or(String::new(), |host| format!("{host}:"));
        [host.as_bytes(), location.whole().as_os_str().as_bytes()].concat()
    }

    fn apart(text: &str) -> (Option<String>, String, Option<String>) {
        let Location { host, path, snapshot, .. } = parse(text.as_bytes()).unwrap();
        let shown = |text: OsString| text.into_string().unwrap();
        (host.map(|host| host.to_string()), shown(path.into()), snapshot.map(shown))
    }

    #[test]
    fn a_part_is_what_stands_between_an_at_sign_and_a_slash() {
        for (text, of, snapshot) in [
            ("v@mail/", Some(("v", "mail")), None),
            ("v@mail/monday", Some(("v", "mail")), Some("monday")),
            ("/srv/v@a@mail/7", Some(("/srv/v@a", "mail")), Some("7")),
            ("h:v@mail/monday", Some(("v", "mail")), Some("monday")),
            ("/@mail/", Some(("/", "mail")), None),
            ("/mnt/@home/user", Some(("/mnt/", "home")), Some("user")),
            ("/mnt/@home/user/x", None, None),
            ("v@mail/a@b", None, Some("b")),
            ("v@mail", None, Some("mail")),
            ("v@mail/.", None, None),
            ("v@mail/..", None, None),
            ("v@mail//", None, None),
            ("v@/x", None, None),
            ("@mail/x", None, None),
        ] {
            let location = parse(text.as_bytes()).unwrap();
            let told = location.of_part().map(|(path, part)| (path, part.to_owned()));
            assert_eq!(told, of.map(|(path, part)| (path.into(), part.into())), "{text}");
            assert_eq!(location.snapshot, snapshot.map(OsString::from), "{text}");
            assert_eq!(written(&location), text.as_bytes());
        }
    }

    #[test]
    fn each_way_to_write_a_place_is_understood() {
        for (text, host, path, snapshot) in [
            ("/srv/data", None, "/srv/data", None),
            ("./a:b", None, "./a:b", None),
            ("a/b:c", None, "a/b:c", None),
            ("@", None, "@", None),
            ("@x", None, "@x", None),
            ("x@", None, "x@", None),
            ("/mnt/@", None, "/mnt/@", None),
            ("/mnt/@/home", None, "/mnt/@/home", None),
            ("v@one@two", None, "v@one", Some("two")),
            ("v/@one", None, "v/", Some("one")),
            ("root@host", None, "root", Some("host")),
            ("v@2026-11-25T14:00", None, "v", Some("2026-11-25T14:00")),
            ("v@2026-11-25T14:00:05+02:00", None, "v", Some("2026-11-25T14:00:05+02:00")),
            ("v@mail/2026-11-25T14:00", None, "v@mail/", Some("2026-11-25T14:00")),
            ("h:v@2026-11-25T14:00", Some("h"), "v", Some("2026-11-25T14:00")),
            ("u@2026-11-25:p", Some("u@2026-11-25"), "p", None),
            ("host:p", Some("host"), "p", None),
            ("host:v@s", Some("host"), "v", Some("s")),
            ("host:a:b@c", Some("host"), "a:b", Some("c")),
            ("u@h.example:/srv/x", Some("u@h.example"), "/srv/x", None),
            ("one@two@h:x", Some("one@two@h"), "x", None),
            ("[::1]:p", Some("[::1]"), "p", None),
            ("[::1]:v@s", Some("[::1]"), "v", Some("s")),
            ("[host]:p", Some("host"), "p", None),
            ("u@[fe80::1%eth0]:/p", Some("u@[fe80::1%eth0]"), "/p", None),
        ] {
            let told = (host.map(str::to_owned), path.to_owned(), snapshot.map(str::to_owned));
            assert_eq!(apart(text), told, "{text}");
        }
    }

    #[test]
    fn what_may_be_a_mistake_is_refused_with_the_right_spelling() {
        for (text, advice) in [
            ("host:", "host:."),
            ("u@[::1]:", "u@[::1]:."),
            ("host::module", "write host:PATH"),
            ("file:/srv/log", "write file:///srv/log"),
            ("root@host:2299:/srv/x", "write root@host:/srv/x, with -o Port=2299"),
            ("::1:/srv/x", "write [::1]:/srv/x"),
            ("u@fe80::1%eth0:x", "write u@[fe80::1%eth0]:x"),
            ("[::1", "in brackets"),
            ("[::1]", "in brackets"),
            ("[::1]x:p", "in brackets"),
            ("[12:30] notes", "./PATH"),
            ("a[1]:x", "./PATH"),
            (":x", "./PATH"),
            ("u@:x", "./PATH"),
            ("@h:x", "./PATH"),
            ("-oProxyCommand=x:y", "./PATH"),
            ("u@-F:y", "./PATH"),
            ("my notes: all", "./PATH"),
            ("ssh://host:2222/x", "host:/x with `-o Port=2222`"),
            ("ssh://u@host/x", "u@host:/x"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}");
            assert!(error.advice().contains(advice), "{text}: {}", error.advice());
        }
    }

    #[test]
    fn what_is_understood_is_the_same_when_it_is_written_and_read_again() {
        let pieces: [&[u8]; 16] = [
            b"a", b"host", b"@", b"@", b":", b":", b"/", b".", b"[", b"]", b"[::1]", b"%eth0", b"~", b" ",
            b"-", b"\xff",
        ];
        let (mut state, mut far, mut near) = (0x2545_f491_4f6c_dd1d_u64, 0, 0);
        for _ in 0..200_000 {
            let mut next = |below: usize| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state % below as u64) as usize
            };
            let text = (0..next(9)).flat_map(|_| pieces[next(pieces.len())]).copied().collect::<Vec<u8>>();
            let Ok(location) = parse(&text) else { continue };
            let again = written(&location);
            assert_eq!(parse(&again).unwrap(), location, "{}", text.escape_ascii());
            // A name in needless brackets loses them.
            assert!(again == text || text.contains(&b'['), "{}", text.escape_ascii());
            let count = if location.host.is_some() { &mut far } else { &mut near };
            *count += 1;
        }
        assert!(far > 5_000 && near > 5_000, "{far} and {near} of them are too few");
    }

    #[test]
    fn a_place_is_known_by_whatever_name() {
        let known = |text: &str| Location::known(Path::new(text));
        for (one, other, is_same) in [
            ("/srv/x", "/srv//x/", true),
            ("/srv/x", "host:/srv/x", false),
            ("/a:/b", "/a:/c", false),
            ("u@host:/srv/x", "HOST:/srv/x", true),
            ("host:/srv/x", "host:/srv/y", false),
            ("host:/srv/x", "other:/srv/x", false),
            ("::1:/srv/x", "[::1]:/srv/x", true),
            ("u@fe80::1:/srv/x", "u@[fe80::1]:x", true),
            ("[::1]:/srv/x", "[::2]:/srv/x", false),
            ("host:/home/u/x", "host:x", true),
            ("host:/home/u/x", "host:~/x", true),
            ("host:/home/u/x", "host:./x", true),
            ("host:/home/u/ax", "host:x", false),
            ("/srv/x@mail/", "/srv//x@mail/", true),
            ("/srv/x@mail/", "/srv/x@mail", false),
            ("host:/srv/x@mail/", "host:x@mail/", true),
            ("/srv/x@mail/", "/srv/x", false),
            ("v@host:/home/v/x", "u@host:x", false),
        ] {
            assert_eq!(known(one).is_at(&known(other)), is_same, "{one} and {other}");
        }
    }
}
