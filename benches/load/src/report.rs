//! What was measured, as a table.

use std::fmt;

use crate::peers::{Load, Shape};

/// One turn of one candidate.
pub(crate) struct Measured {
    cpu_micros: f64,
    per_second: f64,
    p50: u32,
    p99: u32,
    resident_kib: u64,
}

impl Measured {
    pub(crate) fn of(cpu_seconds: f64, load: Load, resident_kib: u64) -> Self {
        let at = |share: f64| load.latencies[((load.latencies.len() - 1) as f64 * share) as usize];
        Self {
            cpu_micros: cpu_seconds * 1e6 / load.requests as f64,
            per_second: load.requests as f64 / load.seconds,
            p50: at(0.50),
            p99: at(0.99),
            resident_kib,
        }
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu_micros, per_second, p50, p99, resident_kib } = self;
        write!(
            formatter,
            "{cpu_micros:6.2} µs  {per_second:7.0}/s  p50 {p50} µs  p99 {p99} µs  {resident_kib} KiB"
        )
    }
}

/// Every turn of every candidate.
pub(crate) struct Table {
    names: Vec<&'static str>,
    turns: Vec<Vec<Measured>>,
    shape: Shape,
}

impl Table {
    pub(crate) fn new(names: Vec<&'static str>, shape: Shape) -> Self {
        let turns = names.iter().map(|_| Vec::new()).collect();
        Self { names, turns, shape }
    }

    pub(crate) fn add(&mut self, candidate: usize, measured: Measured) {
        self.turns[candidate].push(measured);
    }

    /// CPU time per request by candidate, in microseconds.
    pub(crate) fn costs(&self) -> Vec<(&'static str, f64)> {
        let cost =
            |turns: &Vec<Measured>| median(turns.iter().map(|turn| turn.cpu_micros).collect());
        self.names.iter().copied().zip(self.turns.iter().map(cost)).collect()
    }

    /// The median over the rounds of what one candidate costs, as a share of another.
    fn ratio(&self, one: usize, other: usize) -> f64 {
        let pairs = self.turns[one].iter().zip(&self.turns[other]);
        median(pairs.map(|(one, other)| one.cpu_micros / other.cpu_micros).collect())
    }

    /// What the full lane costs beside the proxy that it is built on.
    fn full_lane(&self) -> Option<f64> {
        let find = |wanted: &str| self.names.iter().position(|name| *name == wanted);
        Some(self.ratio(find("wxgate, full lane")?, find("Pingora's proxy, bare")?))
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { connections, answer, body, .. } = self.shape;
        if self.names.is_empty() {
            return writeln!(formatter, "Nobody was there to be asked.");
        }
        let rounds = self.turns[0].len();
        let first = self.names[0];
        writeln!(
            formatter,
            "{connections} requests under way, {body} B up, {answer} B down, {rounds} rounds\n\n\
             | candidate | CPU µs per request | requests/s | p50 µs | p99 µs | RSS MiB | {first} / it |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for (index, name) in self.names.iter().enumerate() {
            let of =
                |value: fn(&Measured) -> f64| median(self.turns[index].iter().map(value).collect());
            writeln!(
                formatter,
                "| {name} | {:.2} | {:.0} | {:.0} | {:.0} | {:.0} | {:.2} |",
                of(|turn| turn.cpu_micros),
                of(|turn| turn.per_second),
                of(|turn| f64::from(turn.p50)),
                of(|turn| f64::from(turn.p99)),
                of(|turn| turn.resident_kib as f64 / 1024.0),
                self.ratio(0, index),
            )?;
        }
        match self.full_lane() {
            Some(ratio) => {
                writeln!(formatter, "\nwxgate, full lane / Pingora's proxy, bare: {ratio:.2}")
            }
            None => Ok(()),
        }
    }
}
