//! How much CPU a request costs the gateway, beside what else could stand in its place.
//!
//! One thread on one core plays all clients and the backend; the candidate runs on the other core.
//! In every round each candidate has its turn, and is charged the CPU time that the kernel says it
//! used (`/proc/PID/stat`, user and system, children included), divided by the requests answered.
//! Candidates are compared within a round, so that a busy machine slows all of them; of the rounds
//! the median counts. `make bench` runs it; results are kept under `benches/runs/`.

mod candidates;
mod peers;
mod report;

use std::time::Duration;

use candidates::{Candidate, Ports};
use peers::Shape;

/// What is measured, from the command line: `key=value`.
struct Plan {
    rounds: usize,
    seconds: f64,
    shape: Shape,
    only: Vec<String>,
    wxgate: String,
    out: Option<String>,
}

impl Plan {
    fn of_the_command_line() -> Self {
        let mut plan = Self {
            rounds: 5,
            seconds: 2.0,
            shape: Shape { connections: 64, answer: 200, body: 0 },
            only: Vec::new(),
            wxgate: "target/release/wxgate".to_owned(),
            out: None,
        };
        for argument in std::env::args().skip(1) {
            let (key, value) = argument.split_once('=').expect("key=value");
            match key {
                "rounds" => plan.rounds = value.parse().unwrap(),
                "seconds" => plan.seconds = value.parse().unwrap(),
                "connections" => plan.shape.connections = value.parse().unwrap(),
                "answer" => plan.shape.answer = value.parse().unwrap(),
                "body" => plan.shape.body = value.parse().unwrap(),
                "only" => plan.only = value.split(',').map(str::to_owned).collect(),
                "wxgate" => value.clone_into(&mut plan.wxgate),
                "out" => plan.out = Some(value.to_owned()),
                _ => panic!("{key} is not known"),
            }
        }
        plan
    }
}

fn main() {
    // Sets the affinity of this thread and what it starts here; candidates get the other core.
    peers::pin_to_first_core();
    let plan = Plan::of_the_command_line();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(plan));
}

async fn run(plan: Plan) {
    let ports = Ports { backend: peers::start_backend(plan.shape.answer).await };
    let directory = tempfile::tempdir().unwrap();
    let mut candidates = Vec::new();
    for start in candidates::all() {
        let wanted = plan.only.is_empty() || plan.only.iter().any(|name| name == start.name);
        if wanted && let Some(candidate) = start.run(&plan.wxgate, directory.path(), ports) {
            candidate.await_listening().await;
            candidates.push(candidate);
        }
    }
    let mut table = report::Table::new(&candidates, plan.shape);
    for round in 0..plan.rounds {
        for (index, candidate) in candidates.iter().enumerate() {
            let measured = measure(candidate, &plan).await;
            println!("round {round} {:22} {measured}", candidate.name);
            table.add(index, measured);
        }
    }
    let text = table.to_string();
    println!("\n{text}");
    if let Some(out) = plan.out {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(out).unwrap();
        std::io::Write::write_all(&mut file, format!("{text}\n").as_bytes()).unwrap();
    }
}

async fn measure(candidate: &Candidate, plan: &Plan) -> report::Measured {
    let target = candidate.address;
    peers::load(target, plan.shape, Duration::from_secs_f64(plan.seconds / 5.0)).await;
    let before = candidate.cpu_seconds();
    let load = peers::load(target, plan.shape, Duration::from_secs_f64(plan.seconds)).await;
    let cpu = candidate.cpu_seconds() - before;
    report::Measured::of(cpu, load, candidate.resident_kib())
}
