//! What the operator is told: metrics, the access log, the program's own log.

pub mod access;
pub mod access_line;
mod access_queue;
pub mod logger;
pub mod metrics;
pub mod route_metrics;
pub mod server_metrics;
pub mod user_hash;

pub use access::{AccessLog, AccessLogError};
pub use access_line::AccessLine;
pub use metrics::Metrics;
pub use prometheus::{IntCounter, IntGauge};
pub use route_metrics::{AuthResult, RouteMetrics};
pub use server_metrics::{Attempted, ServerMetrics};
pub use user_hash::{HashedUser, UserHash};
