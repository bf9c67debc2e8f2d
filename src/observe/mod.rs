//! What the operator is told: metrics, the access log, the program's own log.

pub mod metrics;

pub use metrics::Metrics;
