//! Policies that are another than ours.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use tests_qemu::exec::Dom0;

use crate::command::{command, run};
use crate::paths::Paths;

/// Puts a policy in force.
pub fn load_policy(dom0: &Dom0, policy: &Path) -> Result<()> {
    dom0.put_file(policy, "/root/xenpolicy")?;
    let output = dom0.run(&["flask-loadpolicy", "/root/xenpolicy"])?;
    ensure!(output.success(), "flask-loadpolicy: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Our policy, and a module of the site's own beside it.
pub fn policy_with(paths: &Paths, module: &str) -> Result<PathBuf> {
    let folder = new_folder(paths, "site-policy")?;
    let (site, output) = (folder.join("site.te"), folder.join("xenpolicy"));
    fs::write(&site, module)?;
    let build = paths.workspace.join("toolstack/flask/build.sh");
    run(command("sh", [build]).arg(paths.xen_source()).arg(&output).arg(site))?;
    Ok(output)
}

/// Our policy built from a copy of its module in which `permission` is nowhere granted.
pub fn policy_without(paths: &Paths, permission: &str) -> Result<PathBuf> {
    let folder = new_folder(paths, "lame-policy")?;
    for entry in fs::read_dir(paths.workspace.join("toolstack/flask"))? {
        let path = entry?.path();
        let text = fs::read_to_string(&path)?;
        let is_module = path.extension().is_some_and(|extension| extension == "te" || extension == "if");
        let text = if is_module { without_word(&text, permission) } else { text };
        fs::write(folder.join(path.file_name().unwrap_or_default()), text)?;
    }
    let output = folder.join("xenpolicy");
    run(command("sh", [folder.join("build.sh")]).arg(paths.xen_source()).arg(&output))?;
    Ok(output)
}

fn new_folder(paths: &Paths, name: &str) -> Result<PathBuf> {
    let folder = paths.testbed.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// `text` without `word`, where it stands alone.
fn without_word(text: &str, word: &str) -> String {
    let boundary = |character: Option<char>| !character.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        result.push_str(before);
        if !(boundary(before.chars().next_back()) && boundary(after.chars().next())) {
            result.push_str(word);
        }
        rest = after;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::without_word;

    #[test]
    fn only_whole_words_are_taken_out() {
        assert_eq!(without_word("{ logdirty xlogdirty logdirty_x }", "logdirty"), "{  xlogdirty logdirty_x }");
    }
}
