//! Relays the further channels of a round: each arrives in a process of its own, which passes its bytes to
//! the process that works on the volume through a socket in the volume's store. A channel must present the
//! round's token, and its process must run as the same user.

use crate::delta::incoming::BUFFER;
use crate::remote::messages::Answer;
use crate::remote::wire::Wire;
use crate::secret::random;
use snapsync_model::{Context, Error, Monitor, Result};
use snapsync_snapshot::Alive;
use snapsync_stream::{Arrivals, Channel, Limit, Outlet};
use snapsync_sys::Spot;
use std::io::{self, BufReader, BufWriter};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// The directory in a store that contains the sockets, each in a directory named by its token.
const SOCKETS: &str = "join";
const SOCKET: &str = "socket";
/// How long to wait for an announced channel. A fuzzer's never comes.
const PATIENCE: Duration = if cfg!(fuzzing) { Duration::from_millis(50) } else { Duration::from_secs(60) };

/// Waits for announced channels. The socket is removed when this is dropped.
pub(crate) struct Gathering {
    /// None once all have arrived, so that nobody else gets in.
    listener: Option<UnixListener>,
    socket: Spot,
    _directory: Alive,
    token: Uuid,
    expected: usize,
    /// The channels that have arrived, for every delta of the round: they are silent between two deltas.
    come: Vec<UnixStream>,
}

impl Gathering {
    pub(crate) fn new(store: &Spot, expected: usize) -> Result<Gathering> {
        let token = Uuid::from_bytes(random()?);
        let directory = Alive::make(&store.join(SOCKETS), &token.to_string())?;
        let socket = directory.dir().join(SOCKET);
        let listener = at(&socket, |path| UnixListener::bind(path)).context("listen at", socket.show())?;
        listener.set_nonblocking(true).context("listen at", socket.show())?;
        Ok(Gathering {
            listener: Some(listener),
            socket,
            _directory: directory,
            token,
            expected,
            come: Vec::new(),
        })
    }

    pub(crate) fn token(&self) -> Uuid {
        self.token
    }

    fn streams(&mut self, monitor: &Monitor) -> Result<Vec<UnixStream>> {
        let deadline = Instant::now() + PATIENCE;
        while self.come.len() < self.expected {
            monitor.check()?;
            match self.next().context("listen at", self.socket.show())? {
                Some(stream) => self.come.push(stream),
                None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
                None => {
                    return Err(Error::Cut {
                        what: format!("{} further channels did not come", self.expected - self.come.len()),
                        advice: "run the same command again, with fewer --channels".to_owned(),
                    });
                }
            }
        }
        self.close();
        self.come
            .iter()
            .map(UnixStream::try_clone)
            .collect::<io::Result<_>>()
            .context("join", self.socket.show())
    }

    /// The next channel, if one has arrived.
    fn next(&self) -> io::Result<Option<UnixStream>> {
        let Some(listener) = &self.listener else { return Ok(None) };
        match listener.accept() {
            Ok((stream, _)) if is_ours(&stream) => {
                stream.set_nonblocking(false)?;
                Ok(Some(stream))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn close(&mut self) {
        if self.listener.take().is_some() {
            let _ = self.socket.remove_file();
        }
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
        self.close();
    }
}

/// Whether the process at the other end runs as the same user.
fn is_ours(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
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

/// Relays the wire to the round that waits in `store`, in both directions, until one end is done.
pub(crate) fn relay(store: &Spot, token: Uuid, wire: &mut Wire<'_>, monitor: &Monitor) -> Result<()> {
    let path = store.join(SOCKETS).join(token.to_string()).join(SOCKET);
    let socket = at(&path, |path| UnixStream::connect(path)).ok().filter(is_ours).ok_or_else(nobody_waits)?;
    let path = path.show();
    wire.tell(&Answer::Ready)?;
    let link = Arc::clone(wire.link());
    let Wire { from, to, .. } = wire;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = io::copy(from, &mut &socket);
            // The round reads up to its end record, and reports itself if anything is missing.
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

/// The same error whatever the reason.
pub(crate) fn nobody_waits() -> Error {
    Error::refused("no round waits for this channel", "run the same command again")
}

/// The path of a socket has at most 108 bytes, so it is addressed through its directory's descriptor.
fn at<T>(socket: &Spot, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (above, name) = socket.parent()?;
    act(&Path::new(&format!("/proc/self/fd/{}", above.as_raw_fd())).join(name))
}
