//! OpenSSH from one dom0 to another, set up as operators do: what `xl migrate` uses unless it is told otherwise.

use anyhow::{Result, ensure};

use super::testbed::Testbed;
use crate::network::Place;

/// What runs commands there then, for [`Testbed::shell`].
pub const SHELL: &str = "ssh";

/// In both dom0s. What is there already is not replaced.
const UNPACK: &str = "cd / && cpio -id </tmp/ssh.cpio 2>/dev/null; rm /tmp/ssh.cpio
mkdir -p -m 700 /etc/ssh /run/sshd /root/.ssh
printf 'root:*:0:0::/root:/bin/sh\nsshd:*:100:100::/run/sshd:/bin/false\n' >/etc/passwd
ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519 && cat /root/.ssh/id_ed25519.pub";

/// In the target's: docs/install.md names the second line. What sshd runs has no other environment.
const SERVE: &str = "echo \"HostKey /root/.ssh/id_ed25519
SetEnv LIBXL_SAVE_HELPER=$LIBXL_SAVE_HELPER PATH=$PATH\" >/etc/ssh/sshd_config
/usr/sbin/sshd";

/// Lets dom0 of `from` run commands in dom0 of `to` by [`SHELL`].
pub fn install(testbed: &Testbed, from: &Place, to: &Place) -> Result<()> {
    let said = |place: &Place, line: &str| -> Result<String> {
        let output = testbed.dom0(place).sh(line)?;
        ensure!(output.success(), "OpenSSH in dom0 of {}: {}", place.letter, output.text());
        Ok(output.text())
    };
    let unpack = |place: &Place| {
        testbed.dom0(place).put_file(&testbed.artifacts.ssh, "/tmp/ssh.cpio")?;
        said(place, UNPACK)
    };
    let (caller, host) = (unpack(from)?, unpack(to)?);
    testbed.dom0(to).put(caller.as_bytes(), "/root/.ssh/authorized_keys", 0o600)?;
    testbed.dom0(from).put(format!("{} {host}", to.dom0).as_bytes(), "/root/.ssh/known_hosts", 0o600)?;
    said(to, SERVE).map(drop)
}
