//! The testbed's server inside a dom0: runs commands and moves files for the runner, carries `xl migrate`'s stream in place
//! of ssh, and measures TCP. The protocols are described in [`tests_qemu::exec`] and [`tests_qemu::meter`].

mod client;
mod server;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::time::Duration;

use tests_qemu::exec::{self, OnHangup, Request};
use tests_qemu::meter;

use client::Break;

const USAGE: &str = "\
usage:
  dom0d [serve|--listen ADDRESS]        serve commands and files (default 0.0.0.0:7000),
                                        take streams on 7001, give streams on 7002
  dom0d --connect ADDRESS[:PORT] -- COMMAND [ARG...]
                                        run COMMAND there with this process's standard input, output and error
  dom0d --ssh ADDRESS[:PORT] COMMAND... the same for a line of shell, as ssh does; for `xl migrate -s 'dom0d --ssh'`
  dom0d --ssh-until ready|go|report ADDRESS[:PORT] COMMAND...
                                        the same, but the connection breaks in front of that message between two xl
  dom0d --sink PORT                     take streams on PORT, print bytes and MB/s of each
  dom0d --serve PORT                    give streams on PORT
  dom0d --source ADDRESS PORT SECONDS   send a stream to a sink, print bytes and MB/s
  dom0d --fetch ADDRESS PORT BYTES      fetch a stream, check it, print bytes and MB/s
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        [] | ["serve"] => daemon("0.0.0.0:7000"),
        ["--listen", address] => daemon(address),
        ["--connect", address, "--", ref argv @ ..] if !argv.is_empty() => {
            return remote(address, Request::new(argv), None);
        }
        ["--ssh", address, ref line @ ..] if !line.is_empty() => return shell(address, line, None),
        ["--ssh-until", message, address, ref line @ ..] if !line.is_empty() && Break::before(message).is_some() => {
            return shell(address, line, Break::before(message));
        }
        ["--sink", port] => listen(port).and_then(|listener| meter::sink(listener, |line| println!("{line}"))),
        ["--serve", port] => listen(port).and_then(|listener| meter::serve(listener, |line| println!("{line}"))),
        ["--source", address, port, seconds] => address_of(address, port).and_then(|address| {
            let seconds = seconds.parse().map_err(io::Error::other)?;
            println!("source: {}", meter::send_to(address, Duration::from_secs(seconds))?);
            Ok(())
        }),
        ["--fetch", address, port, bytes] => address_of(address, port).and_then(|address| {
            let bytes = bytes.parse().map_err(io::Error::other)?;
            println!("fetch: {}", meter::fetch_from(address, bytes)?);
            Ok(())
        }),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dom0d: {error}");
            ExitCode::FAILURE
        }
    }
}

fn daemon(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let listener = TcpListener::bind(address)?;
    if address.port() == exec::PORT {
        let (to, from) = (listen("7001")?, listen("7002")?);
        std::thread::spawn(move || meter::sink(to, |line| eprintln!("dom0d: {line}")));
        std::thread::spawn(move || meter::serve(from, |line| eprintln!("dom0d: {line}")));
    }
    eprintln!("dom0d: listening on {}", listener.local_addr()?);
    server::serve(listener)
}

/// Runs a line of shell elsewhere, as ssh does.
fn shell(address: &str, line: &[&str], until: Option<Break>) -> ExitCode {
    let request = Request::new(&["sh", "-c", &line.join(" ")]);
    remote(address, Request { on_hangup: OnHangup::Close, ..request }, until)
}

/// Runs a command elsewhere and returns what it returned; 255 when it could not be run, as ssh does.
fn remote(address: &str, request: Request, until: Option<Break>) -> ExitCode {
    let address_and_port = address_of(address, "7000").map_err(exec::Error::from);
    match address_and_port.and_then(|address| client::run(address, &request, until)) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(255)),
        Err(error) => {
            eprintln!("dom0d: {address}: {error}");
            ExitCode::from(255)
        }
    }
}

fn listen(port: &str) -> io::Result<TcpListener> {
    TcpListener::bind(("0.0.0.0", port.parse::<u16>().map_err(io::Error::other)?))
}

/// An address with or without its port, with or without a user (`root@`) as ssh takes it.
fn address_of(text: &str, default_port: &str) -> io::Result<SocketAddr> {
    let host = text.rsplit('@').next().unwrap_or(text);
    let full = if host.contains(':') { host.to_owned() } else { format!("{host}:{default_port}") };
    full.parse().map_err(|error| io::Error::other(format!("{text}: {error}")))
}
