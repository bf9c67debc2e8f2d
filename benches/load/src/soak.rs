//! Millions of requests over connections that are opened, cut and reused at random:
//! `wxgate-load soak wxgate=PATH [requests=20000000] [connections=64]`.
//!
//! Every request has a number, every answer must carry it. Requests are pipelined at times, have
//! bodies at times, are cut off in the middle or left before their answer came. At the end nothing
//! may be under way in the gateway any more, and its memory must be what it was.

mod answers;
mod backend;

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::candidates::{self, Candidate, Programs};
use crate::peers;

/// No answer may take longer, however busy the machine is.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What all clients share.
struct Course {
    gateway: SocketAddr,
    token: String,
    requests: u64,
    sent: Cell<u64>,
    answered: Cell<u64>,
    cut: Cell<u64>,
    wrong: Cell<u64>,
}

/// SplitMix64: what is random here shall be the same in every run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `sides`.
    pub(crate) fn throw(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

/// Runs it; says at the end whether all was well.
pub(crate) fn run(arguments: impl Iterator<Item = String>) -> bool {
    let (mut wxgate, mut requests, mut connections) =
        ("target/release/wxgate".to_owned(), 20_000_000, 64);
    for argument in arguments {
        let (key, value) = argument.split_once('=').expect("key=value");
        match key {
            "wxgate" => value.clone_into(&mut wxgate),
            "requests" => requests = value.parse().unwrap(),
            "connections" => connections = value.parse().unwrap(),
            _ => panic!("{key} is not known: wxgate, requests, connections"),
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, soak(wxgate, requests, connections))
}

async fn soak(wxgate: String, requests: u64, connections: u64) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let programs = Programs { wxgate, venv: String::new() };
    let (gateway, admin) = start(&programs, directory.path(), backend::start().await).await;
    let course = Rc::new(Course {
        gateway: gateway.address,
        token: candidates::token(),
        requests,
        sent: Cell::new(0),
        answered: Cell::new(0),
        cut: Cell::new(0),
        wrong: Cell::new(0),
    });
    let clients: Vec<_> = (0..connections)
        .map(|number| tokio::task::spawn_local(client(Rc::clone(&course), Dice::new(number))))
        .collect();
    let memory = watch(&course, &gateway).await;
    for client in clients {
        client.await.unwrap();
    }
    let in_flight = await_rest(admin).await;
    let Memory { first, last, most } = memory;
    println!(
        "{} requests answered, {} cut off; wrong answers {}; under way at the end {in_flight}; \
         RSS {first} KiB after the first tenth, {last} KiB at the end, {most} KiB at most",
        course.answered.get(),
        course.cut.get(),
        course.wrong.get(),
    );
    let flat = last < first + first / 4;
    course.wrong.get() == 0 && in_flight == 0 && flat
}

async fn start(
    programs: &Programs,
    directory: &std::path::Path,
    backend: u16,
) -> (Candidate, SocketAddr) {
    // The admin listener gets a port that can be asked at the end.
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = candidates::all()
        .into_iter()
        .find(|start| start.name == "wxgate")
        .and_then(|start| {
            start.run_with(programs, directory, backend, peers::Protocol::Http1, |config| {
                config.replace("listen = \"127.0.0.1:0\"", &format!("listen = \"{admin}\""))
            })
        })
        .expect("wxgate is not there");
    assert!(gateway.listens().await, "wxgate does not listen");
    (gateway, admin)
}

/// The gateway's memory, in KiB.
struct Memory {
    first: u64,
    last: u64,
    most: u64,
}

async fn watch(course: &Course, gateway: &Candidate) -> Memory {
    let begin = Instant::now();
    let mut memory = Memory { first: 0, last: 0, most: 0 };
    let mut told = Instant::now();
    while course.sent.get() < course.requests {
        tokio::time::sleep(Duration::from_millis(500)).await;
        memory.last = gateway.resident_kib();
        memory.most = memory.most.max(memory.last);
        let sent = course.sent.get();
        if memory.first == 0 && sent >= course.requests / 10 {
            memory.first = memory.last;
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            let rate = sent as f64 / begin.elapsed().as_secs_f64();
            let (answered, wrong) = (course.answered.get(), course.wrong.get());
            println!(
                "{sent} sent, {answered} answered, {wrong} wrong, {rate:.0}/s, RSS {} KiB",
                memory.last
            );
        }
    }
    memory
}

/// What `wxgate_http_requests_in_flight` says once all connections are closed, at most 30 s later.
async fn await_rest(admin: SocketAddr) -> u64 {
    let mut left = u64::MAX;
    for _ in 0..300 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        let ask = b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let line = page.lines().find_map(|it| it.strip_prefix("wxgate_http_requests_in_flight "));
        left = line.unwrap().parse().unwrap();
        if left == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    left
}

async fn client(course: Rc<Course>, mut dice: Dice) {
    while course.sent.get() < course.requests {
        if let Err(error) = one_connection(&course, &mut dice).await {
            course.wrong.set(course.wrong.get() + 1);
            println!("wrong: {error}");
        }
    }
}

/// One connection from its opening to its end, which may be rude.
async fn one_connection(course: &Course, dice: &mut Dice) -> io::Result<()> {
    let mut stream = TcpStream::connect(course.gateway).await?;
    stream.set_nodelay(true)?;
    let mut reader = answers::Reader::new();
    let mut out = Vec::new();
    for _ in 0..1 + dice.throw(400) {
        out.clear();
        let burst = if dice.throw(8) == 0 { 2 + dice.throw(15) } else { 1 };
        let first = course.sent.get();
        course.sent.set(first + burst);
        for number in first..first + burst {
            write_request(&mut out, course, number, dice);
        }
        match dice.throw(128) {
            // Cut off within a request.
            0 => {
                let most = dice.throw(out.len() as u64) as usize;
                stream.write_all(&out[..most]).await?;
                course.cut.set(course.cut.get() + burst);
                return Ok(());
            }
            // Gone before the answer.
            1 => {
                stream.write_all(&out).await?;
                course.cut.set(course.cut.get() + burst);
                return Ok(());
            }
            // In two pieces.
            2..6 => {
                let most = dice.throw(out.len() as u64) as usize;
                stream.write_all(&out[..most]).await?;
                tokio::task::yield_now().await;
                stream.write_all(&out[most..]).await?;
            }
            _ => stream.write_all(&out).await?,
        }
        for number in first..first + burst {
            let read = timeout(LONGEST_WAIT, reader.read(&mut stream)).await;
            let its = read.map_err(|_| io::Error::other(format!("{number} is stuck")))??;
            if its != number {
                return Err(io::Error::other(format!("{number} got the answer of {its}")));
            }
            course.answered.set(course.answered.get() + 1);
        }
    }
    Ok(())
}

fn write_request(out: &mut Vec<u8>, course: &Course, number: u64, dice: &mut Dice) {
    let body = if dice.throw(8) == 0 { dice.throw(6000) as usize } else { 0 };
    let (method, length) = match body {
        0 => ("GET", String::new()),
        body => ("POST", format!("Content-Length: {body}\r\n")),
    };
    let token = &course.token;
    out.extend_from_slice(
        format!(
            "{method} /api/soak?number={number} HTTP/1.1\r\nHost: soak\r\n\
             Authorization: Bearer {token}\r\n{length}\r\n"
        )
        .as_bytes(),
    );
    // A body that would be another request, were it taken for one.
    let filler = b"GET /api/soak?number=0 HTTP/1.1\r\nHost: x\r\n\r\n";
    out.extend(filler.iter().copied().cycle().take(body));
}
