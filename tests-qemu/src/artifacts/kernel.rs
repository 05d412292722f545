//! Debian's kernel as an uncompressed ELF file: Xen's toolstack would otherwise unpack it slowly at every start.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::write_whole;

/// The compressed image and the release name of the kernel unpacked below `root`.
pub fn installed(root: &Path) -> Result<(PathBuf, String)> {
    for entry in fs::read_dir(root.join("boot"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok((path, release.to_owned()));
        }
    }
    bail!("no kernel below {}", root.display())
}

/// Writes the ELF file inside the bzImage `image` to `output`, once.
pub fn extract(image: &Path, output: &Path) -> Result<()> {
    if output.exists() {
        return Ok(());
    }
    let bytes = fs::read(image).with_context(|| format!("cannot read {}", image.display()))?;
    let elf = decompress(payload(&bytes)?)?;
    ensure!(elf.starts_with(b"\x7fELF"), "{} holds no ELF file", image.display());
    write_whole(output, &elf)
}

/// The compressed payload, by the boot protocol's header (Documentation/x86/boot.rst, 2.08 and later).
fn payload(image: &[u8]) -> Result<&[u8]> {
    let word = |offset: usize| -> Result<usize> {
        let bytes = image.get(offset..offset + 4).context("not a bzImage: too short")?;
        Ok(u32::from_le_bytes(bytes.try_into()?) as usize)
    };
    ensure!(image.get(0x202..0x206) == Some(b"HdrS"), "not a bzImage");
    let setup_sectors = usize::from(image[0x1f1]);
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?;
    // The last four bytes are the size after decompression, not part of the compressed stream.
    image.get(start..start + length.saturating_sub(4)).context("the payload lies outside the bzImage")
}

/// Unpacks what `xz`, `zstd` or `gzip` has packed.
pub fn decompress(payload: &[u8]) -> Result<Vec<u8>> {
    let program = match payload {
        [0xfd, b'7', b'z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0x1f, 0x8b, ..] => "gzip",
        _ => bail!("compressed in an unknown way"),
    };
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let mut stdin = child.stdin.take().context("no pipe")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(payload));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "{program} could not unpack it");
    Ok(output.stdout)
}
