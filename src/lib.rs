//! wxgate: the auth gateway in front of WeChat Mini Program backends.
//!
//! One room per line, in the order in which a request meets them.

pub mod cli;
pub mod serve;
pub mod proxy;
pub mod route;
pub mod endpoints;
pub mod session;
pub mod identity;
pub mod wechat;
pub mod upstream;
pub mod observe;
pub mod admin;
pub mod sandbox;
pub mod config;
pub mod clock;
pub mod secret;
