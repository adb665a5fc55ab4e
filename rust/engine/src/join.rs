//! Further channels of a round: each comes in through a process of its own, and is handed on to the one that works on
//! the volume over a socket in the volume's store.

use crate::protocol::{Answer, Wire};
use crate::receive::BUFFER;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_stream::{Arrivals, Channel, Limit, Outlet};
use snapsync_sys::Root;
use std::io::{self, BufReader, BufWriter};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// What a socket in a store is called before its token.
pub(crate) const SOCKET: &str = "join-";
/// How long a channel that was announced may take to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for channels that were announced. The socket goes when this does.
pub(crate) struct Gathering {
    listener: UnixListener,
    path: PathBuf,
    token: Uuid,
    expected: usize,
    /// Those that have come, for every delta of the round: none says anything between two.
    come: Vec<UnixStream>,
}

impl Gathering {
    pub(crate) fn new(store: &Path, expected: usize) -> Result<Gathering> {
        let token = Uuid::new_v4();
        let path = store.join(format!("{SOCKET}{token}"));
        let listener = at_socket(&path, |short| UnixListener::bind(short)).context("listen at", &path)?;
        listener.set_nonblocking(true).context("listen at", &path)?;
        Ok(Gathering { listener, path, token, expected, come: Vec::new() })
    }

    pub(crate) fn token(&self) -> Uuid {
        self.token
    }

    fn streams(&mut self, monitor: &Monitor) -> Result<Vec<UnixStream>> {
        let deadline = Instant::now() + PATIENCE;
        while self.come.len() < self.expected {
            monitor.check()?;
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).context("listen at", &self.path)?;
                    self.come.push(stream);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Error::Cut {
                        what: format!("{} further channels did not come", self.expected - self.come.len()),
                        advice: "run the same command again, with fewer --channels".to_owned(),
                    });
                }
                Err(e) => return Err(e).context("listen at", &self.path),
            }
        }
        self.come.iter().map(UnixStream::try_clone).collect::<io::Result<_>>().context("join", &self.path)
    }

    pub(crate) fn arrivals<'a>(&mut self, peer: &Path, monitor: &'a Monitor) -> Result<Vec<Arrivals<'a>>> {
        let streams = self.streams(monitor)?.into_iter();
        streams.map(|stream| arrivals(stream, peer, monitor)).collect()
    }

    pub(crate) fn outlets<'a>(
        &mut self,
        peer: &Path,
        limit: Option<&Arc<Limit>>,
        monitor: &'a Monitor,
    ) -> Result<Vec<Outlet<'a>>> {
        let streams = self.streams(monitor)?.into_iter();
        streams.map(|stream| outlet(stream, peer, limit, monitor)).collect()
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn arrivals<'a>(stream: UnixStream, peer: &Path, monitor: &'a Monitor) -> Result<Arrivals<'a>> {
    let channel = Channel::new(stream, monitor).context("talk to", peer)?;
    let from = BufReader::with_capacity(BUFFER, channel);
    Ok(Arrivals { from: Box::new(from), name: peer.to_path_buf() })
}

fn outlet<'a>(
    stream: UnixStream,
    peer: &Path,
    limit: Option<&Arc<Limit>>,
    monitor: &'a Monitor,
) -> Result<Outlet<'a>> {
    let mut channel = Channel::new(stream, monitor).context("talk to", peer)?;
    channel.limit(limit);
    let to = BufWriter::with_capacity(BUFFER, channel);
    Ok(Outlet { to: Box::new(to), name: peer.to_path_buf() })
}

/// Hands on what comes over the wire to the round that waits in `store`, and back, until one end is done.
pub(crate) fn relay(store: &Path, token: Uuid, wire: &mut Wire<'_>, monitor: &Monitor) -> Result<()> {
    let path = store.join(format!("{SOCKET}{token}"));
    let socket = at_socket(&path, |short| UnixStream::connect(short)).context("join", &path)?;
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    let Wire { from, to, .. } = wire;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(from, &mut &socket);
            // The round reads to its end record: what it lacks it tells itself.
            let _ = socket.shutdown(Shutdown::Write);
        });
        let mut back = || {
            let mut from = Channel::new(socket.as_fd().try_clone_to_owned()?, monitor)?;
            io::copy(&mut from, to.get_mut())
        };
        let copied = back();
        link.give_up();
        copied.map(drop).map_err(|e| snapsync_stream::wire::lift(e, "join", &path))
    })
}

/// The path of a socket is 108 bytes at most: it is named by its directory's descriptor.
fn at_socket<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let above = path.parent().unwrap_or(Path::new("."));
    let root = Root::open(above).map_err(io::Error::other)?;
    let dir = format!("/proc/self/fd/{}", root.fd().as_raw_fd());
    act(&Path::new(&dir).join(path.file_name().unwrap_or_default()))
}
