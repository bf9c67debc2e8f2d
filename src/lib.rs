//! wxgate: the auth gateway in front of WeChat Mini Program backends.
//!
//! One room per line, in the order in which a request meets them.

pub mod identity;
pub mod observe;
pub mod config;
pub mod clock;
pub mod secret;
