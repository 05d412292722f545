//! What `tsmc` says of its command line. None of it needs Xen.

use std::process::{Command, Output};

fn tsmc(line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsmc"));
    command.args(line.split_whitespace()).output().expect("it runs")
}

/// What it says to a command line that makes no sense.
fn refusal(line: &str) -> String {
    let output = tsmc(line);
    assert_eq!(output.status.code(), Some(2), "tsmc {line}");
    assert!(output.stdout.is_empty(), "tsmc {line}");
    String::from_utf8(output.stderr).expect("text")
}

fn help(line: &str) -> String {
    let output = tsmc(line);
    assert_eq!(output.status.code(), Some(0), "tsmc {line}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn every_command_has_help_that_ends_with_its_exit_status() {
    let commands = ["migrate", "status", "cancel", "recover", "discard", "lockdown", "keygen", "module", "watch"];
    for command in commands {
        assert!(help("--help").contains(&format!("\n  {command} ")), "{command}");
        for ask in ["--help", "-h"] {
            let help = help(&format!("{command} {ask}"));
            assert!(help.contains(&format!("Usage: tsmc {command}")), "{help}");
            assert!(help.contains("\nExit status:\n  0 ") && help.contains("\n  78 "), "{help}");
        }
    }
    assert_eq!(help("-h"), help("--help"));
    assert_eq!(help("-V"), format!("tsmc {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_names_arguments_options_and_what_holds_without_them() {
    for (command, parts) in [
        (
            "migrate",
            &["<GUEST> <HOST>", "--ssh <COMMAND>", "--timeout <SECONDS>", "--json", "else tsmc]", "\n  3 "][..],
        ),
        ("status", &["--json"]),
        ("cancel", &["<SESSION>"]),
        ("recover", &["[DOMAIN]"]),
        ("discard", &["<DOMAIN>", "--other-host-is-gone"]),
        ("lockdown", &["--seal-agent", "--arrivals-only"]),
        ("keygen", &["<NAME>", "--out <FILE>", "[default: /etc/tsmc/key]"]),
        ("module", &["--key <FILE>", "--peers <FILE>", "/etc/tsmc/peers", "/run/tsmc/module"]),
        ("watch", &["[CONFIG]", "--key <FILE>", "[default: /etc/xen/tsmc-agent.cfg]"]),
    ] {
        let help = help(&format!("{command} --help"));
        for part in parts {
            assert!(help.contains(part), "{command}, {part}: {help}");
        }
    }
}

#[test]
fn an_error_names_the_wrong_word_and_what_would_be_right() {
    for (line, wrong, right) in [
        ("", "", "Usage: tsmc"),
        ("statsu", "'statsu'", "'status'"),
        ("status --jsn", "'--jsn'", "'--json'"),
        ("status now", "'now'", "Usage: tsmc status"),
        ("cancel", "", "<SESSION>"),
        ("migrate web", "", "<HOST>"),
        ("migrate web b;reboot", "'b;reboot'", "this is no host"),
        ("migrate web b --timeout soon", "'soon'", "--timeout"),
        ("migrate web b --mode fast", "'fast'", "--mode"),
        ("recover web", "'web'", "[DOMAIN]"),
        ("recover 70000", "70000", "0..=65535"),
        ("discard 5", "", "--other-host-is-gone"),
        ("discard --other-host-is-gone", "", "<DOMAIN>"),
        ("lockdown --seal", "'--seal'", "'--seal-agent'"),
        ("lockdown --seal-agent --seal-agent", "'--seal-agent'", "Usage: tsmc lockdown"),
        ("keygen", "", "<NAME>"),
        ("keygen a --out", "", "--out <FILE>"),
        ("module agent.cfg", "'agent.cfg'", "Usage: tsmc module"),
        ("watch a.cfg b.cfg", "'b.cfg'", "Usage: tsmc watch"),
    ] {
        let refusal = refusal(line);
        assert!(refusal.contains(wrong) && refusal.contains(right), "tsmc {line}: {refusal}");
    }
}

#[test]
fn a_key_that_is_there_already_ends_it_as_a_configuration_that_must_be_changed() {
    let folder = std::env::temp_dir().join(format!("tsmc-command-line-{}", std::process::id()));
    let file = folder.join("key");
    for line in [format!("keygen a --out {}", file.display()), format!("keygen --out {} a", file.display())] {
        let _ = std::fs::remove_dir_all(&folder);
        let made = tsmc(&line);
        assert_eq!(made.status.code(), Some(0));
        let printed = String::from_utf8(made.stdout).expect("text");
        assert!(printed.starts_with("peer ") && printed.ends_with(" a\n"), "{printed}");
        assert_eq!(tsmc(&line).status.code(), Some(78));
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}
