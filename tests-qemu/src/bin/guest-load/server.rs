//! Answers on port 7100 ([`tests_qemu::load`]), and the two services of [`common::stream`].

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;

use common::stream;
use serde::Serialize;
use tests_qemu::meter;

use crate::shared::Shared;

/// Starts everything that listens; fails when a port is taken. Who has an answer finds all the services there.
pub fn start(port: u16, shared: &Arc<Shared>) -> io::Result<()> {
    let (udp, tcp) = (UdpSocket::bind(("0.0.0.0", port))?, TcpListener::bind(("0.0.0.0", port))?);
    // The workload goes on without its streams where another program has their ports.
    if let Ok(sink) = TcpListener::bind(("0.0.0.0", stream::SINK_PORT)) {
        thread::spawn(move || meter::sink(sink, |line| println!("load: {line}")));
    }
    if let Ok(serve) = TcpListener::bind(("0.0.0.0", stream::SERVE_PORT)) {
        thread::spawn(move || meter::serve(serve, |line| println!("load: {line}")));
    }
    let (for_udp, for_tcp) = (shared.clone(), shared.clone());
    thread::spawn(move || answer_datagrams(&udp, &for_udp));
    thread::spawn(move || answer_connections(&tcp, &for_tcp));
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, shared: &Shared) {
    let mut question = [0; 64];
    loop {
        // A failed datagram is the asker's loss only: he asks again.
        if let Ok((_, asker)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&line(&shared.status()), asker);
        }
    }
}

fn answer_connections(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        let shared = shared.clone();
        thread::spawn(move || answer_commands(stream, &shared));
    }
}

fn answer_commands(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let commands = BufReader::new(stream.try_clone()?);
    for command in commands.lines() {
        let answer = match command?.trim() {
            "status" => line(&shared.status()),
            "reset" => {
                shared.forget_gaps();
                line(&shared.status())
            }
            "check" => line(&shared.check()),
            _ => b"{\"error\":\"status, reset or check\"}\n".to_vec(),
        };
        stream.write_all(&answer)?;
    }
    Ok(())
}

fn line(answer: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(answer).unwrap_or_default();
    line.push(b'\n');
    line
}
