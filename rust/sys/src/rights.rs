//! The privileges that the kernel asks of a process for some attributes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// A capability that some attributes take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To give files to other users and groups.
    Chown,
    /// To give programs capabilities.
    SetFcap,
    /// To make files immutable or append-only.
    LinuxImmutable,
    /// To set extended attributes in the namespaces of the system.
    SysAdmin,
    /// To make devices.
    Mknod,
}

impl Right {
    pub fn name(self) -> &'static str {
        match self {
            Right::Chown => "CAP_CHOWN",
            Right::SetFcap => "CAP_SETFCAP",
            Right::LinuxImmutable => "CAP_LINUX_IMMUTABLE",
            Right::SysAdmin => "CAP_SYS_ADMIN",
            Right::Mknod => "CAP_MKNOD",
        }
    }

    /// Whether this process lacks it.
    pub fn is_missing(self) -> bool {
        let needed = match self {
            Right::Chown => CapabilitySet::CHOWN,
            Right::SetFcap => CapabilitySet::SETFCAP,
            Right::LinuxImmutable => CapabilitySet::LINUX_IMMUTABLE,
            Right::SysAdmin => CapabilitySet::SYS_ADMIN,
            Right::Mknod => CapabilitySet::MKNOD,
        };
        capabilities(None).is_ok_and(|sets| !sets.effective.contains(needed))
    }
}

/// Lets this process hold as many files open as it may.
pub fn open_many_files() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let limit = getrlimit(Resource::Nofile);
        // Where it is refused, fewer are open.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    });
}
