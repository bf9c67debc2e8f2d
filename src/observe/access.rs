//! The access log: one line per answered request, written off the request path.
//!
//! A write costs a system call of several microseconds and a disk may hang, so a request only
//! puts its line where its thread gathers them (`access_queue.rs`). Another thread takes what has
//! gathered and writes it at once. If there is no room or the disk refuses, lines are dropped and
//! counted.

use std::collections::VecDeque;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;

use super::access_line::{AccessLine, append_combined, append_json};
use super::access_queue::{Queue, Wishes};
use super::metrics::Metrics;
use crate::config::{AccessFormat, Log};

/// How long lines gather before the next write. Also the most a busy log lags behind.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end of the program waits for the last lines.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

/// The access log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file of `log.access_file` cannot be opened for appending.
    #[error("log.access_file: `{}` cannot be opened for appending: {cause}", path.display())]
    File {
        /// The file as configured.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Standard output is closed.
    #[error("log.access: standard output cannot be used: {0}")]
    Stdout(io::Error),
    /// The system refuses another thread.
    #[error("log.access: the writing thread cannot be started: {0}")]
    Thread(io::Error),
}

/// Where answered requests are written down. Dropping it writes what is queued.
pub struct AccessLog(Option<Lines>);

impl AccessLog {
    /// Opens the file and starts the writing thread; with `access = "off"` neither.
    ///
    /// # Errors
    /// [`AccessLogError`] if the file cannot be opened or the thread not be started.
    pub fn open(config: &Log, metrics: &Metrics) -> Result<Self, AccessLogError> {
        let format: Format = match config.access {
            AccessFormat::Json => append_json,
            AccessFormat::Combined => append_combined,
            AccessFormat::Off => return Ok(Self(None)),
        };
        let sink = Sink::open(config.access_file.as_deref())?;
        Lines::start(format, sink, metrics.access_log_dropped.clone())
            .map(|lines| Self(Some(lines)))
            .map_err(AccessLogError::Thread)
    }

    /// Whether lines are written at all, for callers that would prepare one in vain.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues one line. Never blocks: when the queue is full the line is dropped and counted.
    pub fn write(&self, line: &AccessLine<'_>) {
        if let Some(Lines { format, queue, dropped }) = &self.0
            && !queue.push(|text| format(line, text))
        {
            dropped.inc();
        }
    }

    /// Opens the file anew, for a rotation that has moved it away. Returns at once; lines that
    /// are being written at this moment still go to the old file. If the file cannot be opened
    /// the old one stays in use and the reason is logged.
    pub fn reopen(&self) {
        if let Some(Lines { queue, .. }) = &self.0 {
            queue.wish(|wishes| wishes.reopen = true);
        }
    }

    /// Writes what is queued and ends the writing thread; waits for that at most two seconds.
    /// Lines that come later are dropped and counted.
    pub fn close(&self) {
        if let Some(Lines { queue, .. }) = &self.0 {
            queue.wish(|wishes| wishes.close = true);
            if !queue.wait_for_end(CLOSE_WAIT) {
                log::warn!("the last lines of the access log could not be written in time");
            }
        }
    }
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.is_on() { "AccessLog(on)" } else { "AccessLog(off)" })
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.close();
    }
}

type Format = fn(&AccessLine<'_>, &mut Vec<u8>);

/// The side of the requests.
struct Lines {
    format: Format,
    queue: Arc<Queue>,
    dropped: IntCounter,
}

impl Lines {
    fn start(format: Format, sink: Sink, dropped: IntCounter) -> io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let writer =
            Writer { queue: Arc::clone(&queue), sink, spare: Vec::new(), dropped: dropped.clone() };
        std::thread::Builder::new().name("access log".to_owned()).spawn(|| writer.run())?;
        Ok(Self { format, queue, dropped })
    }
}

/// The side of the disk.
struct Writer {
    queue: Arc<Queue>,
    sink: Sink,
    spare: Vec<u8>,
    dropped: IntCounter,
}

impl Writer {
    fn run(mut self) {
        // The first line after a pause is written at once; what comes while others are being
        // written gathers, so that requests need not rouse this thread one by one.
        loop {
            self.queue.wait();
            self.write_all_queued();
            let Wishes { reopen, close } = self.queue.take_wishes();
            if reopen {
                self.sink.reopen();
            }
            if close {
                self.queue.close();
                self.write_all_queued();
                break;
            }
            self.queue.gather(GATHER);
        }
        self.queue.end();
    }

    fn write_all_queued(&mut self) {
        let Self { queue, sink, spare, dropped } = self;
        queue.take(spare, |lines| dropped.inc_by(sink.write(lines)));
    }
}

/// The file, or standard output.
struct Sink {
    /// `None`: standard output.
    path: Option<PathBuf>,
    file: File,
    /// What is missing of a line that a full disk cut off; it is finished before the next one,
    /// so that no line is ever torn.
    unfinished: VecDeque<u8>,
    refused: bool,
}

impl Sink {
    fn open(path: Option<&Path>) -> Result<Self, AccessLogError> {
        let file = match path {
            Some(path) => open_to_append(path)
                .map_err(|cause| AccessLogError::File { path: path.to_owned(), cause })?,
            // A copy of the descriptor: std's own handle would cut a batch at its last line end
            // and look at every byte for it.
            None => io::stdout()
                .as_fd()
                .try_clone_to_owned()
                .map(File::from)
                .map_err(AccessLogError::Stdout)?,
        };
        Ok(Self {
            path: path.map(Path::to_owned),
            file,
            unfinished: VecDeque::new(),
            refused: false,
        })
    }

    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open_to_append(path) {
            Ok(file) => {
                self.file = file;
                // The rest of a line that was begun in the old file makes no sense in the new.
                self.unfinished.clear();
            }
            Err(error) => log::error!(
                "the access log `{}` cannot be opened again, the old file stays in use: {error}",
                path.display()
            ),
        }
    }

    /// Writes whole lines; returns how many were lost.
    fn write(&mut self, lines: &[u8]) -> u64 {
        match self.try_write(lines) {
            Ok(()) => {
                if std::mem::take(&mut self.refused) {
                    log::warn!("the access log is written again");
                }
                0
            }
            Err(Refused { error, lost }) => {
                if !std::mem::replace(&mut self.refused, true) {
                    log::error!("the access log cannot be written, lines are dropped: {error}");
                }
                lost
            }
        }
    }

    fn try_write(&mut self, lines: &[u8]) -> Result<(), Refused> {
        let rest = self.unfinished.make_contiguous();
        let (finished, refusal) = write_until_refused(&mut self.file, rest);
        self.unfinished.drain(..finished);
        if let Some(error) = refusal {
            return Err(Refused { error, lost: count_lines(lines) });
        }
        let (written, refusal) = write_until_refused(&mut self.file, lines);
        let Some(error) = refusal else { return Ok(()) };
        let (done, mut lost) = lines.split_at(written);
        if done.last().is_some_and(|byte| *byte != b'\n') {
            let end = lost.iter().position(|byte| *byte == b'\n').map_or(lost.len(), |at| at + 1);
            let (begun, whole) = lost.split_at(end);
            self.unfinished.extend(begun);
            lost = whole;
        }
        Err(Refused { error, lost: count_lines(lost) })
    }
}

struct Refused {
    error: io::Error,
    lost: u64,
}

fn open_to_append(path: &Path) -> io::Result<File> {
    // Addresses and user agents are nobody else's business.
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn write_until_refused(file: &mut File, bytes: &[u8]) -> (usize, Option<io::Error>) {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match file.write(rest) {
            Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Some(error)),
        }
    }
    (written, None)
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::io::Read as _;
    use std::net::{IpAddr, Ipv4Addr};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    fn config(access: AccessFormat, access_file: PathBuf) -> Log {
        Log { level: log::LevelFilter::Off, access, access_file: Some(access_file) }
    }

    fn write(log: &AccessLog, path: &str) {
        log.write(&AccessLine {
            unix_millis: 1_795_252_087_045,
            request_id: "r-1",
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            method: b"GET",
            host: b"localhost",
            path: path.as_bytes(),
            protocol: "HTTP/1.1",
            status: 200,
            bytes_in: 0,
            bytes_out: 2,
            duration: Duration::from_millis(1),
            route: None,
            upstream: None,
            server: None,
            auth: None,
            user: None,
            user_agent: None,
            referer: None,
        });
    }

    fn paths(file: &Path) -> Vec<String> {
        paths_in(&std::fs::read_to_string(file).unwrap())
    }

    fn paths_in(text: &str) -> Vec<String> {
        let path = |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line.get("path").unwrap().as_str().unwrap().to_owned()
        };
        text.lines().map(path).collect()
    }

    fn wait_until(condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition() {
            assert!(Instant::now() < deadline, "it did not happen within 20 s");
            std::thread::yield_now();
        }
    }

    /// A sink whose other end the test holds, with the log in front of it.
    fn log_into_socket() -> (AccessLog, UnixStream, Metrics) {
        let (writer, reader) = UnixStream::pair().unwrap();
        let metrics = Metrics::new().unwrap();
        let lines = Lines::start(append_json, sink(writer), metrics.access_log_dropped.clone());
        (AccessLog(Some(lines.unwrap())), reader, metrics)
    }

    fn sink(socket: UnixStream) -> Sink {
        Sink {
            path: None,
            file: File::from(OwnedFd::from(socket)),
            unfinished: VecDeque::new(),
            refused: false,
        }
    }

    #[test]
    fn lines_are_appended_in_order_and_all_are_there_after_the_log_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("access.log");
        let metrics = Metrics::new().unwrap();
        for round in 0..2 {
            let log = AccessLog::open(&config(AccessFormat::Json, file.clone()), &metrics).unwrap();
            for number in 0..1000 {
                write(&log, &format!("/{round}/{number}"));
            }
        }
        let expected: Vec<String> = (0..2)
            .flat_map(|round| (0..1000).map(move |number| format!("/{round}/{number}")))
            .collect();
        assert_eq!(paths(&file), expected);
        assert_eq!(metrics.access_log_dropped.get(), 0);
    }

    #[test]
    fn a_single_line_is_written_without_waiting_for_a_second() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("access.log");
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::open(&config(AccessFormat::Json, file.clone()), &metrics).unwrap();
        write(&log, "/only");
        wait_until(|| std::fs::read_to_string(&file).unwrap().ends_with('\n'));
        assert_eq!(paths(&file), ["/only"]);
    }

    #[test]
    fn after_a_rotation_new_lines_go_to_a_new_file_and_none_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("access.log");
        let moved = directory.path().join("access.log.1");
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::open(&config(AccessFormat::Json, file.clone()), &metrics).unwrap();
        write(&log, "/before");
        std::fs::rename(&file, &moved).unwrap();
        wait_until(|| !std::fs::read(&moved).unwrap().is_empty());
        write(&log, "/between");
        log.reopen();
        wait_until(|| file.exists());
        write(&log, "/after");
        log.close();
        assert_eq!([paths(&moved), paths(&file)].concat(), ["/before", "/between", "/after"]);
        assert_eq!(paths(&file).last().unwrap(), "/after");
    }

    #[test]
    fn if_the_file_cannot_be_opened_again_the_old_one_stays_in_use() {
        let directory = tempfile::tempdir().unwrap();
        let logs = directory.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::open(&config(AccessFormat::Json, logs.join("access.log")), &metrics);
        let log = log.unwrap();
        let moved = directory.path().join("moved");
        std::fs::rename(&logs, &moved).unwrap();
        log.reopen();
        write(&log, "/still");
        log.close();
        assert_eq!(paths(&moved.join("access.log")), ["/still"]);
    }

    #[test]
    fn off_writes_nothing_and_opens_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("access.log");
        let metrics = Metrics::new().unwrap();
        let log = AccessLog::open(&config(AccessFormat::Off, file.clone()), &metrics).unwrap();
        write(&log, "/nothing");
        drop(log);
        assert!(!file.exists());
        assert_eq!(metrics.access_log_dropped.get(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("missing/access.log");
        let metrics = Metrics::new().unwrap();
        let error = AccessLog::open(&config(AccessFormat::Json, file.clone()), &metrics);
        let message = error.err().unwrap().to_string();
        assert!(message.contains(&file.display().to_string()), "{message}");
        assert!(message.starts_with("log.access_file: "), "{message}");
    }

    #[test]
    fn a_full_disk_drops_and_counts_every_line() {
        let metrics = Metrics::new().unwrap();
        let full = PathBuf::from("/dev/full");
        let log = AccessLog::open(&config(AccessFormat::Json, full), &metrics).unwrap();
        for _ in 0..50 {
            write(&log, "/");
        }
        log.close();
        assert_eq!(metrics.access_log_dropped.get(), 50);
    }

    #[test]
    fn a_hanging_disk_neither_blocks_a_request_nor_hides_a_dropped_line() {
        let (log, mut reader, metrics) = log_into_socket();
        let sent = 60_000;
        // Nobody reads, so the writer hangs. If `write` blocked, this loop would not end.
        for number in 0..sent {
            write(&log, &format!("/{number}"));
        }
        let dropped = metrics.access_log_dropped.get();
        assert!(dropped > 0);
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        drop(log);
        let written = paths_in(&read.join().unwrap().unwrap());
        assert_eq!(u64::try_from(written.len()).unwrap() + dropped, sent);
        assert_eq!(written.first().unwrap(), "/0");
    }

    #[test]
    fn the_queue_is_bounded_in_bytes_too() {
        let (log, mut reader, metrics) = log_into_socket();
        let long = format!("/{}", "a".repeat(100_000));
        for _ in 0..200 {
            write(&log, &long);
        }
        let dropped = metrics.access_log_dropped.get();
        assert!((100..200).contains(&dropped), "{dropped} of 200 lines of 100 kB were dropped");
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).map(|_| text)
        });
        drop(log);
        let written = paths_in(&read.join().unwrap().unwrap());
        assert_eq!(u64::try_from(written.len()).unwrap() + dropped, 200);
    }

    #[test]
    fn a_line_that_was_cut_off_is_finished_before_the_next_one() {
        let (writer, mut reader) = UnixStream::pair().unwrap();
        writer.set_nonblocking(true).unwrap();
        reader.set_nonblocking(true).unwrap();
        let mut sink = sink(writer);
        let line = format!("{}\n", "x".repeat(1_234_567));
        let mut lost = 0;
        let mut text = String::new();
        // Each call is refused somewhere within a line, as on a disk that is full for a while.
        for _ in 0..20 {
            lost += sink.write(line.repeat(2).as_bytes());
            let end = reader.read_to_string(&mut text).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        }
        while sink.write(b"") == 0 && !sink.unfinished.is_empty() {
            let end = reader.read_to_string(&mut text).unwrap_err();
            assert_eq!(end.kind(), io::ErrorKind::WouldBlock);
        }
        reader.read_to_string(&mut text).unwrap_err();
        assert!(lost > 0);
        assert!(text.ends_with('\n'));
        assert!(text.lines().all(|written| written.len() == 1_234_567));
        assert_eq!(u64::try_from(text.lines().count()).unwrap() + lost, 40);
    }
}
