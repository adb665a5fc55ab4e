//! How long `ssh` tries to connect and when it gives a silent host up, where the user's own configuration
//! does not say so. What stands on its command line would count over that configuration, so `ssh -G` is
//! asked first what it says of a host. That connects to nobody.

use crate::options::SshOptions;
use std::path::Path;
use std::process::{Command, Stdio};

/// The user's options, and after them those that nothing has set.
pub(super) fn options_for(ssh: &SshOptions, program: &Path, host: &str) -> Vec<String> {
    let mut options = ssh.options.clone();
    let is_ssh = ssh.rsh.first().is_some_and(|name| Path::new(name).file_name() == Some("ssh".as_ref()));
    if !is_ssh {
        return options;
    }
    let said = configured(ssh, program, host);
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    // Debian's ssh makes 300 of it where nobody can be asked for a password.
    let unset = if value("batchmode") == Some("yes") { ["0", "300"] } else { ["0", "0"] };
    let seconds = ssh.patience.as_secs().max(3);
    // Before this end gives up by itself: then ssh says why.
    if value("connecttimeout").is_none_or(|value| value == "none") {
        options.push(format!("ConnectTimeout={}", seconds * 2 / 3));
    }
    if value("serveraliveinterval").is_none_or(|value| unset.contains(&value)) {
        options.push(format!("ServerAliveInterval={}", seconds / 3));
        options.push("ServerAliveCountMax=3".to_owned());
    }
    options
}

/// All that `ssh` would do for a host, a line each; nothing where it does not tell.
fn configured(ssh: &SshOptions, program: &Path, host: &str) -> String {
    let mut command = Command::new(program);
    command.args(&ssh.rsh[1..]).arg("-G");
    command.args(ssh.options.iter().flat_map(|option| ["-o", option])).arg(host);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let said = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).into_owned()
}
