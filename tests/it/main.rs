//! The gateway's promises, tested from outside: the real binary between a fake WeChat, a backend
//! that records and a caller that sends raw bytes. One file per promise.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "tests may panic"
)]

mod admin;
mod assertion;
mod config_errors;
mod config_reference;
mod config_sample;
mod config_values;
mod cookie_bridge;
mod cors;
mod decrypt;
mod explain;
mod faults;
mod forwarded;
mod harness;
mod header_rules;
mod health;
mod http2;
mod http2_frames;
mod lanes;
mod life;
mod limits;
mod login;
mod logs;
mod nodes;
mod oauth;
mod paths;
mod phone;
mod policy;
mod redirect;
mod requests;
mod routes;
mod session_key;
mod sessions_command;
mod spoofing;
mod store_file;
mod streaming;
mod systemd;
mod tls;
mod token_places;
mod tokens;
mod upgrade;
mod upstream_http2;
mod upstream_tls;
mod verify;
mod websocket;
mod wechat_faults;
