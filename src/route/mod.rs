//! Which rule a request falls under, and what that rule asks of it.

pub mod cors;
pub mod list;
pub mod path;
pub mod policy;
pub mod rate;
pub mod table;

use std::path::PathBuf;

use path::PathError;

/// The routes of a configuration cannot be used. An operator's mistake; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// `path` or `strip_prefix` of a route is not one that a request can have.
    #[error("route `{route}`: `{path}`: {source}")]
    Path {
        /// The route's name.
        route: String,
        /// The path as written.
        path: String,
        /// What is wrong with it.
        source: PathError,
    },
    /// Nothing decides between two routes.
    #[error("routes `{first}` and `{second}` have the same host, path and methods")]
    EqualRank {
        /// The name of one route.
        first: String,
        /// The name of the other.
        second: String,
    },
    /// An openid list is missing or cannot be read.
    #[error("openid list `{}`: {source}", path.display())]
    ListUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An openid list is a directory, pipe or device.
    #[error("openid list `{}` is not a regular file", path.display())]
    ListNotAFile {
        /// The file.
        path: PathBuf,
    },
    /// An openid list is too long.
    #[error("openid list `{}` is larger than {limit} bytes", path.display())]
    ListTooLarge {
        /// The file.
        path: PathBuf,
        /// The longest that is read.
        limit: u64,
    },
    /// A line of an openid list holds something else. The line is not shown: it may be an
    /// openid with a slip in it.
    #[error(
        "openid list `{}`, line {line}: not an openid (6 to 64 letters, digits, `_` or `-`)",
        path.display()
    )]
    ListLine {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
}
