//! The serving side of [`tests_qemu::exec`]: one thread for a connection, and while a command runs one for each of its pipes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tests_qemu::exec::frame::{self, Header, Kind, ReceiveError};
use tests_qemu::exec::{self, OnHangup, PutFile, Request};

/// How long a pipe may stay silent, after the command has ended, before something else must be holding it open.
const LINGER: Timespec = Timespec { tv_sec: 0, tv_nsec: 300_000_000 };

/// Serves every connection, for ever.
pub fn serve(listener: TcpListener) -> io::Result<()> {
    loop {
        let (stream, peer) = listener.accept()?;
        thread::Builder::new().spawn(move || {
            if let Err(error) = connection(stream) {
                eprintln!("dom0d: {peer}: {error}");
            }
        })?;
    }
}

fn connection(mut stream: TcpStream) -> io::Result<()> {
    exec::keep_alive(&stream)?;
    let Some(header) = Header::read(&mut stream)? else { return Ok(()) };
    let payload = frame::read_payload(&mut stream, header)?;
    let mut answers = stream.try_clone()?;
    let served = match header.kind {
        Kind::Run => run(stream, serde_json::from_slice(&payload)?),
        Kind::Put => put(&mut stream, &serde_json::from_slice(&payload)?),
        Kind::Get => get(&mut stream, &String::from_utf8_lossy(&payload)),
        _ => Err(io::Error::other("not a request")),
    };
    served.or_else(|error| {
        frame::write(&mut answers, Kind::Refused, error.to_string().as_bytes())?;
        // Closing on unread data would take the refusal back.
        io::copy(&mut answers, &mut io::sink()).map(drop)
    })
}

fn put(stream: &mut TcpStream, file: &PutFile) -> io::Result<()> {
    let path = Path::new(&file.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A running program's file cannot be overwritten, but it can be replaced.
    let fresh = format!("{}.dom0d-new", file.path);
    let out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(file.mode).open(&fresh)?;
    receive(stream, out).and_then(|()| fs::rename(&fresh, path)).inspect_err(|_| {
        // It takes dom0's memory.
        let _ = fs::remove_file(&fresh);
    })?;
    frame::write(stream, Kind::Exit, &0i32.to_le_bytes())
}

/// Writes the content of a put.
fn receive(stream: &mut TcpStream, mut out: fs::File) -> io::Result<()> {
    loop {
        match Header::read(stream)? {
            Some(Header { kind: Kind::Data, len: 0 }) => return Ok(()),
            Some(header @ Header { kind: Kind::Data, .. }) => out.write_all(&frame::read_payload(stream, header)?)?,
            _ => return Err(io::Error::other("a put is data and an empty frame")),
        }
    }
}

fn get(stream: &mut TcpStream, path: &str) -> io::Result<()> {
    let file = fs::File::open(path).map_err(|error| io::Error::other(format!("{path}: {error}")))?;
    while frame::send_from(file.as_fd(), stream, Kind::Data)? > 0 {}
    Ok(())
}

fn run(stream: TcpStream, request: Request) -> io::Result<()> {
    let (program, args) = request.argv.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let mut child = Command::new(program)
        .args(args)
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    let status = supervise(&stream, &mut child, request.on_hangup);
    if status.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let Some(status) = status? else { return Ok(()) };
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    frame::write(&mut &stream, Kind::Exit, &code.to_le_bytes())
}

/// Everything between a command's start and its end; `None` when its client had gone before.
fn supervise(stream: &TcpStream, child: &mut Child, on_hangup: OnHangup) -> io::Result<Option<ExitStatus>> {
    let group = Pid::from_child(child);
    let ended = Arc::new(pidfd_open(group, PidfdFlags::empty())?);
    let answers = Arc::new(Mutex::new(stream.try_clone()?));
    let pipes = child.stdin.take().zip(child.stdout.take()).zip(child.stderr.take());
    let ((stdin, stdout), stderr) = pipes.ok_or_else(|| io::Error::other("no pipes"))?;
    let outputs = [(OwnedFd::from(stdout), Kind::Stdout), (OwnedFd::from(stderr), Kind::Stderr)].map(|(pipe, kind)| {
        let (answers, ended) = (answers.clone(), ended.clone());
        thread::spawn(move || send_output(pipe, kind, &answers, &ended))
    });
    // Left to itself: it ends when the client, told of the command's end, closes the connection.
    let data = stream.try_clone()?;
    thread::spawn(move || feed(data, stdin.into(), &answers));
    if !outlives(stream, &ended)? {
        let _ = stream.shutdown(Shutdown::Both);
        hang_up(group, &ended, on_hangup)?;
        child.wait()?;
        return Ok(None);
    }
    let status = child.wait()?;
    let _ = outputs.map(|output| output.join());
    Ok(Some(status))
}

/// Waits for the command's end; `false` when the client goes first.
fn outlives(stream: &TcpStream, ended: &OwnedFd) -> io::Result<bool> {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let mut fds = [PollFd::new(ended, PollFlags::IN), PollFd::new(stream, PollFlags::RDHUP)];
    wait(&mut fds, None)?;
    Ok(!(fds[0].revents().is_empty() && fds[1].revents().intersects(gone)))
}

fn hang_up(group: Pid, ended: &OwnedFd, how: OnHangup) -> io::Result<()> {
    let patience = match how {
        OnHangup::Kill => {
            let _ = kill_process_group(group, Signal::TERM);
            Duration::from_secs(2)
        }
        OnHangup::Close => Duration::from_secs(60),
    };
    let mut fds = [PollFd::new(ended, PollFlags::IN)];
    let patience = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: 0 };
    if wait(&mut fds, Some(&patience))? == 0 || how == OnHangup::Kill {
        // In `Kill`, also whatever else of its group is left.
        let _ = kill_process_group(group, Signal::KILL);
    }
    Ok(())
}

/// Carries one of the command's outputs to the client.
fn send_output(pipe: OwnedFd, kind: Kind, answers: &Mutex<TcpStream>, ended: &OwnedFd) {
    widen(&pipe);
    let mut over = false;
    loop {
        let mut fds = [PollFd::new(&pipe, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        let count = if over { 1 } else { 2 };
        match wait(&mut fds[..count], over.then_some(&LINGER)) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        over = over || !fds[1].revents().is_empty();
        if fds[0].revents().is_empty() {
            continue;
        }
        match frame::send_from(pipe.as_fd(), &mut lock(answers), kind) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
    let _ = frame::write(&mut *lock(answers), kind, &[]);
}

/// Carries the client's data to the command's standard input, and closes that when the client ends it or goes.
fn feed(mut stream: TcpStream, pipe: OwnedFd, answers: &Mutex<TcpStream>) {
    widen(&pipe);
    let mut pipe = Some(pipe);
    while let Ok(readable) = wait_for_data(&stream, pipe.as_ref()) {
        if !readable {
            pipe = None;
            let _ = frame::write(&mut *lock(answers), Kind::StdinClosed, &[]);
            continue;
        }
        let Ok(Some(Header { kind: Kind::Data, len })) = Header::read(&mut stream) else { return };
        let fed = match &pipe {
            _ if len == 0 => {
                pipe = None;
                Ok(())
            }
            Some(pipe) => frame::receive_into(&mut stream, pipe.as_fd(), len),
            None => discard(&mut stream, len).map_err(ReceiveError::Connection),
        };
        if let Err(ReceiveError::Connection(_)) = fed {
            return;
        }
    }
}

/// Waits for something from the client; `false` when the reader of `pipe` goes first.
fn wait_for_data(stream: &TcpStream, pipe: Option<&OwnedFd>) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(stream, PollFlags::IN)];
    // The writing end of a pipe without a reader is in error.
    fds.extend(pipe.map(|pipe| PollFd::new(pipe, PollFlags::empty())));
    wait(&mut fds, None)?;
    Ok(fds.get(1).is_none_or(|pipe| pipe.revents().is_empty()))
}

fn discard(stream: &mut TcpStream, len: usize) -> io::Result<()> {
    io::copy(&mut stream.take(len as u64), &mut io::sink()).map(drop)
}

fn wait(fds: &mut [PollFd], timeout: Option<&Timespec>) -> io::Result<usize> {
    loop {
        match poll(fds, timeout) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Lets a pipe hold a whole frame. A smaller pipe is slower, not wrong.
fn widen(pipe: &OwnedFd) {
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, frame::MAX_PAYLOAD);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
