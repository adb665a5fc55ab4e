//! An object store, asked from threads that wait for each answer. Failures that may pass are tried again by
//! the `object_store` crate, with pauses that grow, up to a limit in all.

use crate::profile::profile;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, ClientOptions, Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt,
    PutMode, PutPayload, RetryConfig,
};
use rustix::io::Errno;
use snapsync_model::{Error, RelPath, Result, printable_within};
use snapsync_sys::Root;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use url::Url;

/// So many objects are deleted with one request.
const BULK: usize = 1000;
/// How long a request is tried again, in all.
const PATIENCE: Duration = Duration::from_secs(180);
const ATTEMPTS: usize = 10;
/// One of these says where credentials come from. Without them the client would ask a machine that is there
/// at Amazon only.
const KEYS: [&str; 6] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_METADATA_ENDPOINT",
    "AWS_SKIP_SIGNATURE",
];
/// How old a file is that nobody writes to a directory any more.
const LEFT: Duration = Duration::from_secs(24 * 60 * 60);
/// The most bytes of a reason that a server gives.
const LONGEST: usize = 300;

/// What to do without them.
const CREDENTIALS: &str = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; and \
                           AWS_ENDPOINT_URL for a store that is not Amazon's. For the role of a machine \
                           there, set AWS_METADATA_ENDPOINT";

/// Where a log is, as people write it: `s3://BUCKET/PREFIX` or `file:///DIR`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogAddress {
    S3 { bucket: String, prefix: String },
    Directory(PathBuf),
}

impl LogAddress {
    /// The log and the snapshot that `LOG@SNAP` names, or the log alone.
    pub fn parse_snapshot(text: &Path) -> Result<Option<(LogAddress, Option<String>)>> {
        let Some(whole) = text.to_str() else { return Ok(None) };
        let name = whole.rfind('/').map_or(0, |slash| slash + 1);
        let (log, snapshot) = match whole[name..].rsplit_once('@') {
            Some((before, snapshot)) if !before.is_empty() && !snapshot.is_empty() => {
                (&whole[..name + before.len()], Some(snapshot.to_owned()))
            }
            _ => (whole, None),
        };
        Ok(LogAddress::parse(Path::new(log))?.map(|log| (log, snapshot)))
    }

    /// None if it is no address of a log.
    pub fn parse(text: &Path) -> Result<Option<LogAddress>> {
        let Some(text) = text.to_str() else { return Ok(None) };
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        // Where there may be keys in it, none of it is shown.
        let keys = rest.rsplit_once('@').is_some_and(|(before, _)| before.contains(':'));
        let shown = if keys || rest.contains('?') { format!("{scheme}://…") } else { text.to_owned() };
        let wrong = |why: &str, advice: &str| {
            Err(Error::usage(format!("{shown} is not the address of a log: {why}"), advice))
        };
        if matches!(scheme, "s3" | "file") && rest.rsplit('/').next().is_some_and(|name| name.contains('@')) {
            return wrong("it names a snapshot", "write the log alone here, without what begins with @");
        }
        match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                let prefix = prefix.trim_matches('/');
                if bucket.is_empty() || bucket.contains(['@', ':', '?']) {
                    return wrong("it names no bucket", "write s3://BUCKET/PREFIX; keys are never in it");
                }
                if Key::parse(prefix).is_err() || prefix.contains(['?', '#']) {
                    return wrong(
                        "the prefix is none",
                        "use letters, digits, `-`, `_`, `.` and single slashes",
                    );
                }
                Ok(Some(LogAddress::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
            }
            "file" if rest.contains(['#', '?']) => {
                wrong("`#` and `?` mean something else", "write %23 and %3F")
            }
            "file" => match Url::parse(text).ok().and_then(|url| url.to_file_path().ok()) {
                Some(path) if path.parent().is_some() => Ok(Some(LogAddress::Directory(path))),
                _ => wrong("it names no directory", "write file:///DIR, with the whole path"),
            },
            "gs" | "az" | "azure" | "abfs" => {
                wrong("snapsync has no client for that store yet", "use an S3-compatible one, or file:///DIR")
            }
            _ => Ok(None),
        }
    }
}

impl fmt::Display for LogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogAddress::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            LogAddress::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
            LogAddress::Directory(path) => match Url::from_file_path(path) {
                Ok(url) => url.fmt(f),
                Err(()) => write!(f, "file://{}", path.display()),
            },
        }
    }
}

/// The objects below the prefix of a log.
pub struct Objects {
    runtime: Runtime,
    store: Arc<dyn ObjectStore>,
    address: LogAddress,
}

/// What became of an object that was to be new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    Made,
    /// There is one already, which stays as it is.
    Exists,
}

impl Objects {
    /// Opens the store; `makes` says that a directory which is not there may be made.
    pub fn open(address: &LogAddress, makes: bool) -> Result<Objects> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().map_err(
                |e| Error::failed(format!("cannot start threads for {address}: {e}"), "free memory"),
            )?;
        let store: Arc<dyn ObjectStore> = match address {
            LogAddress::Directory(path) => Arc::new(directory(path, makes)?),
            LogAddress::S3 { bucket, prefix } => {
                let built = bucket_of(bucket, address)?;
                Arc::new(PrefixStore::new(built, prefix.as_str()))
            }
        };
        Ok(Objects { runtime, store, address: address.clone() })
    }

    pub fn address(&self) -> &LogAddress {
        &self.address
    }

    /// Writes an object whose name nobody else uses.
    pub fn put(&self, key: &str, bytes: Vec<u8>) -> Result<()> {
        let place = Key::from(key);
        let put = self.store.put(&place, PutPayload::from(bytes));
        self.runtime.block_on(put).map(drop).map_err(|e| self.failed("write", key, &e))
    }

    /// Writes an object unless there is one of its name. Where the answer got lost, who wrote it is to be
    /// read.
    pub fn put_new(&self, key: &str, bytes: Vec<u8>) -> Result<Put> {
        let place = Key::from(key);
        let put = self.store.put_opts(&place, PutPayload::from(bytes), PutMode::Create.into());
        match self.runtime.block_on(put) {
            Ok(_) => Ok(Put::Made),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(Put::Exists),
            Err(error) if self.lacks_links(&error) => Err(Error::refused(
                format!("{} lets no hard links be made, which keep two writers apart", self.address),
                "use a directory on a file system of Linux, or an object store",
            )),
            Err(error) => Err(self.failed("write", key, &error)),
        }
    }

    /// A pipe or a device in the place of an object would be waited for without end.
    fn expect_file(&self, key: &str) -> Result<()> {
        let LogAddress::Directory(directory) = &self.address else { return Ok(()) };
        match std::fs::metadata(directory.join(key)) {
            Ok(found) if !found.is_file() => Err(self.damaged(key, "it is no file")),
            _ => Ok(()),
        }
    }

    /// All of an object of at most `most` bytes; None if there is none.
    pub fn get(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>> {
        self.expect_file(key)?;
        let found = self.runtime.block_on(async {
            let found = self.store.get(&Key::from(key)).await?;
            if found.meta.size > most {
                return Ok(Err(found.meta.size));
            }
            found.bytes().await.map(Ok)
        });
        match found {
            Ok(Ok(bytes)) => Ok(Some(bytes.into())),
            Ok(Err(size)) => Err(self.damaged(key, &format!("it has {size} bytes"))),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    /// A range of an object; what is cut short is damage.
    pub fn range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>> {
        self.expect_file(key)?;
        let (length, end) = (range.end - range.start, range.end);
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let found = self.runtime.block_on(async {
            let found = self.store.get_opts(&Key::from(key), options).await?;
            found.bytes().await
        });
        match found {
            Ok(bytes) if bytes.len() as u64 == length => Ok(bytes.into()),
            Ok(_) => Err(self.short(key)),
            Err(StoreError::NotFound { .. }) => Err(self.damaged(key, "it is not there")),
            // A range that begins behind the end is an error of its own in each store.
            Err(_) if self.size(key).is_some_and(|size| size < end) => Err(self.short(key)),
            Err(error) => Err(self.failed("read", key, &error)),
        }
    }

    fn short(&self, key: &str) -> Error {
        self.damaged(key, "it is shorter than what names it says")
    }

    /// None if it cannot be told.
    fn size(&self, key: &str) -> Option<u64> {
        self.runtime.block_on(self.store.head(&Key::from(key))).ok().map(|meta| meta.size)
    }

    /// The names of the objects right below a folder, sorted, and those of its folders.
    pub fn list(&self, folder: &str) -> Result<BTreeSet<String>> {
        let place = Key::from(folder);
        let listed = self.runtime.block_on(self.store.list_with_delimiter(Some(&place)));
        let listed = listed.map_err(|e| self.failed("list", folder, &e))?;
        let objects = listed.objects.iter().map(|object| &object.location);
        let names = objects.chain(&listed.common_prefixes).filter_map(|key| key.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// The keys and sizes of all objects at any depth below a folder.
    pub fn list_all(&self, folder: &str) -> Result<Vec<(String, u64)>> {
        let place = Key::from(folder);
        let listed = self.runtime.block_on(self.store.list(Some(&place)).try_collect::<Vec<_>>());
        let listed = listed.map_err(|e| self.failed("list", folder, &e))?;
        Ok(listed.into_iter().map(|object| (object.location.to_string(), object.size)).collect())
    }

    /// Files of a directory whose writers were killed before these had their names, and their sizes. They are
    /// in no listing.
    pub fn left(&self) -> Result<Vec<(String, u64)>> {
        let LogAddress::Directory(top) = &self.address else { return Ok(Vec::new()) };
        let (mut found, mut folders) = (Vec::new(), vec![top.clone()]);
        while let Some(folder) = folders.pop() {
            let io = |source| Error::Io { action: "list", path: folder.clone(), source };
            for entry in std::fs::read_dir(&folder).map_err(io)? {
                let entry = entry.map_err(io)?;
                // Others may be at work.
                let Ok(about) = entry.metadata() else { continue };
                let path = entry.path();
                let is_old =
                    about.modified().is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed > LEFT));
                match path.strip_prefix(top).ok().and_then(Path::to_str) {
                    _ if about.is_dir() => folders.push(path),
                    Some(key) if about.is_file() && is_unfinished(key) && is_old => {
                        found.push((key.to_owned(), about.len()));
                    }
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    pub fn delete(&self, key: &str) -> Result<()> {
        if let LogAddress::Directory(path) = &self.address {
            return self.unlink(path, key);
        }
        let place = Key::from(key);
        match self.runtime.block_on(self.store.delete(&place)) {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", key, &error)),
        }
    }

    /// Deletes objects, up to a thousand with a request. Returns which of them the store does not let go of
    /// now, as it does with what is retained for a time, and its reason.
    pub fn delete_all(&self, keys: &[&str]) -> Result<(BTreeSet<String>, String)> {
        let (mut kept, mut reason) = (BTreeSet::new(), String::new());
        if let LogAddress::Directory(directory) = &self.address {
            for key in keys {
                match self.unlink(directory, key) {
                    Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => {
                        kept.insert((*key).to_owned());
                        reason = source.to_string();
                    }
                    other => other?,
                }
            }
            return Ok((kept, reason));
        }
        for keys in keys.chunks(BULK) {
            let places: Vec<_> = keys.iter().map(|key| Ok(Key::from(*key))).collect();
            let deleted = self.store.delete_stream(stream::iter(places).boxed()).collect::<Vec<_>>();
            let deleted = self.runtime.block_on(deleted);
            // Of a request that fails as a whole there is one result.
            let is_one = deleted.len() < keys.len();
            for (key, deleted) in keys.iter().zip(&deleted) {
                match deleted {
                    Ok(_) | Err(StoreError::NotFound { .. }) => {}
                    Err(error) if is_denied(error) => {
                        let of = if is_one { keys } else { std::slice::from_ref(key) };
                        kept.extend(of.iter().map(|key| (*key).to_owned()));
                        reason = why(error);
                    }
                    Err(error) => return Err(self.failed("delete", key, error)),
                }
            }
        }
        Ok((kept, reason))
    }

    /// Whoever may write to the directory could put a link there to what is none of the log's, and a listing
    /// follows it.
    fn unlink(&self, directory: &Path, key: &str) -> Result<()> {
        let leads_there = |e: &std::io::Error| {
            [Errno::LOOP, Errno::NOTDIR].iter().any(|it| e.raw_os_error() == Some(it.raw_os_error()))
        };
        match Root::open(directory)?.unlink(&RelPath::new(key.as_bytes())?) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) if leads_there(&e) => Err(Error::integrity(
                format!("cannot delete {}: a symbolic link leads there", self.show(key)),
                "nothing behind it was deleted: find out who made it, and remove it",
            )),
            Err(source) => Err(Error::Io { action: "delete", path: directory.join(key), source }),
        }
    }

    pub fn show(&self, key: &str) -> String {
        format!("{}/{key}", self.address)
    }

    pub(crate) fn damaged(&self, key: &str, why: &str) -> Error {
        Error::integrity(
            format!("cannot use {}: {why}", self.show(key)),
            "if the store has versions or a copy of it, bring it back; nothing of it was applied",
        )
    }

    /// Whether a new object failed because it gets its name by a link.
    fn lacks_links(&self, error: &StoreError) -> bool {
        // EPERM, ENOSYS, EOPNOTSUPP
        let lacks = |number| [1, 38, 95].contains(&number);
        let number = chain(error).find_map(|e| e.downcast_ref::<std::io::Error>()?.raw_os_error());
        matches!(self.address, LogAddress::Directory(_)) && number.is_some_and(lacks)
    }

    fn failed(&self, action: &str, key: &str, error: &StoreError) -> Error {
        let show = self.show(key);
        let advice = match error {
            StoreError::Unauthenticated { .. } | StoreError::PermissionDenied { .. } => {
                "check the credentials in the environment, the rights that they have there, and the clock of \
                 this machine"
            }
            StoreError::NotFound { .. } => "check the name of the bucket or the directory",
            _ if matches!(self.address, LogAddress::Directory(_)) => {
                "check the rights and the space there, and run the same command again"
            }
            _ => "check the endpoint, the network and the space there, and run the same command again",
        };
        Error::failed(format!("cannot {action} {show}: {}", why(error)), advice)
    }
}

/// Whether a file is one that has not got its name yet: the store writes `NAME#1` first.
fn is_unfinished(key: &str) -> bool {
    let number = key.rsplit_once('#').map(|(_, number)| number.as_bytes());
    number.is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

/// A directory whose objects are on the disk when they are written. One that is made is for its owner alone:
/// all that the primary has is in it.
fn directory(path: &Path, makes: bool) -> Result<LocalFileSystem> {
    let made = if makes && !path.exists() { DirBuilder::new().mode(0o700).create(path) } else { Ok(()) };
    made.and_then(|()| std::fs::read_dir(path).map(drop)).map_err(|source| Error::Io {
        action: "open the log in",
        path: path.to_path_buf(),
        source,
    })?;
    let store = LocalFileSystem::new_with_prefix(path).map_err(|e| {
        Error::failed(format!("cannot open the log in {}: {}", path.display(), why(&e)), "check the path")
    })?;
    Ok(store.with_fsync(true))
}

fn bucket_of(bucket: &str, address: &LogAddress) -> Result<object_store::aws::AmazonS3> {
    let is_told = KEYS.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    let profile = profile()?;
    if !is_told && profile.key.is_none() {
        return Err(Error::usage(format!("there are no credentials for {address}"), CREDENTIALS));
    }
    let retry =
        RetryConfig { backoff: BackoffConfig::default(), max_retries: ATTEMPTS, retry_timeout: PATIENCE };
    let told = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
    if let (false, Some((id, secret))) = (is_told, profile.key) {
        builder = builder.with_access_key_id(id).with_secret_access_key(secret);
        builder = profile.token.into_iter().fold(builder, |builder, token| builder.with_token(token));
    }
    if told("AWS_REGION").or_else(|| told("AWS_DEFAULT_REGION")).is_none()
        && let Some(region) = profile.region
    {
        builder = builder.with_region(region);
    }
    // Whoever gives an endpoint without TLS means it.
    let endpoint = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"].into_iter().find_map(told);
    let endpoint = endpoint.or(profile.endpoint);
    let is_plain = endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"));
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(&endpoint).with_allow_http(is_plain);
    }
    // What TLS carries need not be signed once more; the digests in commits prove it for good.
    if told("AWS_UNSIGNED_PAYLOAD").is_none() && !is_plain {
        builder = builder.with_unsigned_payload(true);
    }
    // reqwest asks for it. Another part of the process may have chosen one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = ClientOptions::default()
        .with_connect_timeout(Duration::from_secs(10))
        .with_timeout(Duration::from_secs(120))
        .with_allow_http(true);
    builder
        .with_client_options(options)
        .build()
        .map_err(|e| Error::usage(format!("cannot open {address}: {}", why(&e)), CREDENTIALS))
}

/// Whether a store refuses something that it could do.
fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::PermissionDenied { .. }) || error.to_string().contains("AccessDenied")
}

/// An error and its reasons, the innermost last.
fn chain<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// The innermost reason, without what nobody may see.
fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let text = chain(error).last().unwrap_or(error).to_string();
    // The code of an S3 error says more than the page around it.
    let all = error.to_string();
    let code =
        all.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    let mut text = code.map_or(text, str::to_owned);
    for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"] {
        if let Some(secret) = std::env::var(name).ok().filter(|secret| secret.len() > 3) {
            text = text.replace(&secret, "…");
        }
    }
    printable_within(&text.replace('\n', " "), LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read_and_what_is_none_is_refused() {
        for text in ["s3://bucket", "s3://bucket/a/b", "file:///srv/log"] {
            let address = LogAddress::parse(Path::new(text)).unwrap().unwrap();
            assert_eq!(address.to_string(), text);
        }
        for text in ["s3://", "s3:///x", "s3://key:secret@bucket/x", "file://host/x", "file://", "gs://b/x"] {
            assert_eq!(LogAddress::parse(Path::new(text)).unwrap_err().exit_code(), 2, "{text}");
        }
        for text in ["/srv/x", "host:/x", "s3", "ssh://host/x"] {
            assert_eq!(LogAddress::parse(Path::new(text)).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn an_object_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let objects = Objects::open(&LogAddress::Directory(dir.path().join("log")), true).unwrap();
        assert_eq!(objects.put_new("a/1", b"one".into()).unwrap(), Put::Made);
        assert_eq!(objects.put_new("a/1", b"two".into()).unwrap(), Put::Exists);
        assert_eq!(objects.get("a/1", 10).unwrap().unwrap(), b"one");
        assert_eq!(objects.get("a/1", 2).unwrap_err().exit_code(), 4);
        assert_eq!(objects.get("a/2", 10).unwrap(), None);
        assert_eq!(objects.range("a/1", 1..3).unwrap(), b"ne");
        assert_eq!(objects.range("a/1", 1..5).unwrap_err().exit_code(), 4);
        assert_eq!(objects.list("a").unwrap(), ["1".to_owned()].into());
        objects.delete("a/1").unwrap();
        assert!(objects.list("a").unwrap().is_empty());
    }
}
