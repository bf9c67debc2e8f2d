//! Clients that speak TLS and HTTP/2: nghttp2's `h2load`, on the same core as the backend.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::peers::{Load, Protocol, Shape, TARGET, headers};

/// Sends `requests`, with as many under way at once as the shape has connections.
pub(crate) async fn load(
    address: SocketAddr,
    shape: Shape,
    requests: u64,
    directory: &Path,
) -> Load {
    let log = directory.join("h2load.log");
    drop(std::fs::remove_file(&log));
    let mut command = Command::new("h2load");
    match shape.protocol {
        Protocol::Http2 => {
            // Few connections of several streams each, as clients have them.
            let clients = (shape.connections / 4).max(1);
            command.arg(format!("-c{clients}")).arg("-m4");
        }
        Protocol::Http1 | Protocol::Http1OverTls => {
            command.arg(format!("-c{}", shape.connections)).args(["-m1", "--h1"]);
        }
    }
    for (name, value) in headers() {
        command.arg("-H").arg(format!("{name}: {value}"));
    }
    command
        .arg(format!("-n{requests}"))
        .arg(format!("--log-file={}", log.display()))
        .arg(format!("https://{address}{TARGET}"))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let begin = Instant::now();
    // The backend runs in this runtime, which must go on meanwhile.
    let status = tokio::task::spawn_blocking(move || command.status()).await.unwrap().unwrap();
    assert!(status.success(), "h2load failed");
    let seconds = begin.elapsed().as_secs_f64();
    let written = std::fs::read_to_string(&log).unwrap();
    let mut latencies: Vec<u32> = written
        .lines()
        .map(|line| {
            // Begin, status, microseconds.
            let mut fields = line.split('\t').skip(1);
            assert_eq!(fields.next(), Some("200"), "{line}");
            fields.next().unwrap().trim().parse().unwrap()
        })
        .collect();
    assert_eq!(latencies.len() as u64, requests, "requests were lost");
    latencies.sort_unstable();
    Load { requests, seconds, latencies }
}
