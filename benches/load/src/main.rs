//! How much CPU a request costs the gateway, beside what else could stand in its place.
//!
//! One thread on one core plays all clients and the backend; the candidate runs on the other core.
//! In every round each candidate has its turn, and is charged the CPU time that the kernel says it
//! used (`/proc/PID/stat`, user and system, children included), divided by the requests answered.
//! Candidates are compared within a round, so that a busy machine slows all of them; of the rounds
//! the median counts. `make bench` runs it and writes `benches/runs/latest.md` and `.svg`.
//! `make soak` runs `soak.rs` instead.

mod candidates;
mod configs;
mod h2load;
mod machine;
mod peers;
mod plot;
mod report;
mod soak;

use std::path::Path;
use std::time::Duration;

use candidates::{Candidate, Programs};
use peers::{Protocol, Shape};
use report::{Measured, Table};

/// A question, and who is asked.
struct Group {
    key: &'static str,
    title: &'static str,
    shape: Shape,
    /// Empty: everybody.
    who: &'static [&'static str],
}

const PLAIN: Shape = Shape { protocol: Protocol::Http1, connections: 64, answer: 200, body: 0 };

/// The common request and everybody who could carry it; then what else a gateway meets, beside
/// those that are hardest to keep up with.
const GROUPS: [Group; 7] = [
    Group { key: "common", title: "The common request", shape: PLAIN, who: &[] },
    Group {
        key: "large",
        title: "Answers of 64 KiB",
        shape: Shape { answer: 64 * 1024, ..PLAIN },
        who: &["wxgate", "nginx, plain", "HAProxy, jwt_verify"],
    },
    Group {
        key: "upload",
        title: "Request bodies of 4 KiB",
        shape: Shape { body: 4 * 1024, ..PLAIN },
        who: &["wxgate", "nginx, plain", "HAProxy, jwt_verify"],
    },
    Group {
        key: "one",
        title: "One connection",
        shape: Shape { connections: 1, ..PLAIN },
        who: &["wxgate", "nginx, plain", "HAProxy, jwt_verify"],
    },
    Group {
        key: "thousand",
        title: "1,000 connections",
        shape: Shape { connections: 1000, ..PLAIN },
        who: &["wxgate", "nginx, plain", "HAProxy, jwt_verify"],
    },
    Group {
        key: "tls",
        title: "HTTP/1.1 over TLS 1.3",
        shape: Shape { protocol: Protocol::Http1OverTls, ..PLAIN },
        who: &["wxgate", "nginx, plain"],
    },
    Group {
        key: "http2",
        title: "HTTP/2 over TLS 1.3, 16 connections of 4 streams",
        shape: Shape { protocol: Protocol::Http2, ..PLAIN },
        who: &["wxgate", "nginx, plain"],
    },
];

/// What is measured, from the command line: `key=value`.
struct Plan {
    rounds: usize,
    seconds: f64,
    groups: Vec<String>,
    only: Vec<String>,
    programs: Programs,
    /// Where the results go, less `.md` and `.svg`.
    out: Option<String>,
}

impl Plan {
    fn of_the_command_line() -> Self {
        let mut plan = Self {
            rounds: 5,
            seconds: 2.0,
            groups: Vec::new(),
            only: Vec::new(),
            programs: Programs { wxgate: "target/release/wxgate".to_owned(), venv: String::new() },
            out: None,
        };
        for argument in std::env::args().skip(1) {
            let (key, value) = argument.split_once('=').expect("key=value");
            // Names hold commas.
            let list = || value.split(';').map(str::to_owned).collect();
            match key {
                "rounds" => plan.rounds = value.parse().unwrap(),
                "seconds" => plan.seconds = value.parse().unwrap(),
                "groups" => plan.groups = list(),
                "only" => plan.only = list(),
                "wxgate" => value.clone_into(&mut plan.programs.wxgate),
                "venv" => value.clone_into(&mut plan.programs.venv),
                "out" => plan.out = Some(value.to_owned()).filter(|out| !out.is_empty()),
                _ => panic!("{key} is not known: rounds, seconds, groups, only, wxgate, venv, out"),
            }
        }
        plan
    }

    fn wants(&self, group: &Group, name: &str) -> bool {
        let is_in = |names: &[&str]| names.is_empty() || names.contains(&name);
        is_in(group.who) && (self.only.is_empty() || self.only.iter().any(|only| only == name))
    }
}

fn main() {
    if std::env::args().nth(1).is_some_and(|word| word == "soak") {
        let good = soak::run(std::env::args().skip(2));
        std::process::exit(i32::from(!good));
    }
    // Sets the affinity of this thread and what it starts here; candidates get the other core.
    peers::pin_to_first_core();
    let plan = Plan::of_the_command_line();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(plan));
}

async fn run(plan: Plan) {
    let mut page = machine::describe(&plan.programs, plan.rounds, plan.seconds);
    for group in &GROUPS {
        if !plan.groups.is_empty() && !plan.groups.iter().any(|key| key == group.key) {
            continue;
        }
        let table = measure_group(&plan, group).await;
        let text = format!("## {}\n\n{table}\n", group.title);
        println!("\n{text}");
        page.push_str(&text);
        if let (Some(out), "common") = (&plan.out, group.key) {
            std::fs::write(format!("{out}.svg"), plot::bars(&table.costs())).unwrap();
        }
    }
    if let Some(out) = &plan.out {
        std::fs::write(format!("{out}.md"), page).unwrap();
    }
}

async fn measure_group(plan: &Plan, group: &Group) -> Table {
    let backend = peers::start_backend(group.shape.answer).await;
    let directory = tempfile::tempdir().unwrap();
    candidates::make_certificate(directory.path());
    let mut running = Vec::new();
    for start in candidates::all() {
        if !plan.wants(group, start.name) {
            continue;
        }
        let protocol = group.shape.protocol;
        match start.run(&plan.programs, directory.path(), backend, protocol) {
            Some(candidate) if candidate.listens().await => running.push(candidate),
            Some(_) => println!("{} does not listen and is left out", start.name),
            None => println!("{} is not installed and is left out", start.name),
        }
    }
    let names = running.iter().map(|candidate| candidate.name).collect();
    let mut table = Table::new(names, group.shape);
    for round in 0..plan.rounds {
        for (index, candidate) in running.iter().enumerate() {
            let measured = measure(candidate, plan, group.shape, directory.path()).await;
            println!("{}, round {round}, {:24} {measured}", group.key, candidate.name);
            table.add(index, measured);
        }
    }
    table
}

async fn measure(candidate: &Candidate, plan: &Plan, shape: Shape, directory: &Path) -> Measured {
    let load = async |seconds: f64| match shape.protocol {
        Protocol::Http1 => {
            peers::load(candidate.address, shape, Duration::from_secs_f64(seconds)).await
        }
        Protocol::Http1OverTls | Protocol::Http2 => {
            let requests = (seconds * 10_000.0) as u64;
            h2load::load(candidate.address, shape, requests, directory).await
        }
    };
    load(plan.seconds / 5.0).await;
    let before = candidate.cpu_seconds();
    let load = load(plan.seconds).await;
    let cpu = candidate.cpu_seconds() - before;
    Measured::of(cpu, load, candidate.resident_kib())
}
