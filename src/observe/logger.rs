//! The program's own log, on standard error: one line per event.
//!
//! Only wxgate itself speaks here. Libraries print what a client or an upstream sent them, and a
//! login code, a token or an openid may stand in that.

use std::fmt::Write as _;
use std::io::Write as _;

use log::{LevelFilter, Log, Metadata, Record, SetLoggerError};

/// Sends the records of wxgate, `level` and graver, to standard error. `unix_millis` tells the
/// wall time in milliseconds since 1970. Called once, at start.
///
/// # Errors
/// If the process has a logger already.
pub fn init(level: LevelFilter, unix_millis: fn() -> u64) -> Result<(), SetLoggerError> {
    log::set_boxed_logger(Box::new(Logger { unix_millis }))?;
    log::set_max_level(level);
    Ok(())
}

struct Logger {
    unix_millis: fn() -> u64,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        is_ours(metadata.target())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = line(record, (self.unix_millis)());
            // Standard error may be closed; there is nobody left to tell.
            std::io::stderr().write_all(line.as_bytes()).unwrap_or_default();
        }
    }

    fn flush(&self) {}
}

fn is_ours(target: &str) -> bool {
    target.strip_prefix("wxgate").is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// `2026-11-21T09:08:07.123Z WARN wxgate::wechat: what happened`
fn line(record: &Record<'_>, unix_millis: u64) -> String {
    let timestamp = i64::try_from(unix_millis)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .unwrap_or(jiff::Timestamp::MAX);
    let mut line = format!("{timestamp:.3} {} {}: ", record.level(), record.target());
    for char in record.args().to_string().chars() {
        // A line end or a terminal escape in a value must not look like a line of ours.
        if char.is_control() || matches!(char, '\u{2028}' | '\u{2029}') {
            write!(line, "{}", char.escape_unicode()).unwrap_or_default();
        } else {
            line.push(char);
        }
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(target: &str, message: &str) -> String {
        line(
            &Record::builder()
                .level(log::Level::Warn)
                .target(target)
                .args(format_args!("{message}"))
                .build(),
            1_795_252_087_045,
        )
    }

    #[test]
    fn a_record_is_one_line_with_time_level_and_room() {
        assert_eq!(
            written("wxgate::wechat", "WeChat is slow"),
            "2026-11-21T09:08:07.045Z WARN wxgate::wechat: WeChat is slow\n"
        );
    }

    #[test]
    fn control_characters_cannot_forge_a_second_line() {
        let line = written("wxgate::wechat", "a\nb\r\u{1b}[31mc\u{9b}d\u{2028}é");
        assert_eq!(
            line.split_once("wechat: ").map(|(_, message)| message),
            Some("a\\u{a}b\\u{d}\\u{1b}[31mc\\u{9b}d\\u{2028}é\n")
        );
    }

    #[test]
    fn libraries_are_silent() {
        for target in ["pingora_core::protocols", "reqwest", "wxgatekeeper", "h2", ""] {
            assert!(!is_ours(target), "{target}");
        }
        for target in ["wxgate", "wxgate::proxy::full"] {
            assert!(is_ours(target), "{target}");
        }
    }
}
