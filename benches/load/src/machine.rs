//! On what, and with which versions, something was measured: without that a figure says nothing.

use std::fmt::Write as _;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::candidates::Programs;

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// Days since 1970 as year, month, day.
fn date(days: i64) -> (i64, i64, i64) {
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day = shifted.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let month_of_year = if month < 10 { month + 3 } else { month - 9 };
    let leap = i64::from(month_of_year <= 2);
    (year + era * 400 + leap, month_of_year, of_year - (153 * month + 2) / 5 + 1)
}

/// The head of a page of results.
pub(crate) fn describe(programs: &Programs, rounds: usize, seconds: f64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let (year, month, day) = date((now / 86_400) as i64);
    let cpu = file("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = file("/proc/meminfo");
    let memory = memory.lines().next().unwrap_or_default().replace("MemTotal:", "");
    let load = file("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let kernel = output("uname", &["-r"]);
    let commit = output("git", &["rev-parse", "--short", "HEAD"]);
    let mut page = format!(
        "# What a request costs, {year}-{month:02}-{day:02}\n\n\
         Written by `make bench`: {rounds} rounds of {seconds} s for each candidate, medians, \
         candidates compared within a round.\n\
         HS256, the token in `Authorization`, one worker each, metrics on. All write an \
         access log to a file but\nfor bare Pingora and where \"log off\" is said: in batches where \
         they can, HAProxy and Caddy line by line.\n\n\
         | | |\n| --- | --- |\n\
         | machine | {model}, {cores} cores, {} of memory, load {load} before it began |\n\
         | kernel | {kernel} |\n| commit | {commit} |\n",
        memory.trim()
    );
    for program in ["wxgate", "nginx", "haproxy", "envoy", "caddy", "traefik", "h2load"] {
        let version = programs.version(program).unwrap_or_else(|| "not installed".to_owned());
        writeln!(page, "| {program} | {version} |").unwrap();
    }
    page.push('\n');
    page
}
