//! `GET /api/v1/upstreams`: where requests can be sent now.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;

use super::{Admin, answer};
use crate::config::Balance;
use crate::upstream::Upstream;

#[derive(Serialize)]
struct Upstreams<'a> {
    upstreams: Vec<Shown<'a>>,
}

#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    balance: Balance,
    /// As `/readyz` has it.
    up: bool,
    servers: Vec<Server<'a>>,
}

#[derive(Serialize)]
struct Server<'a> {
    /// As it is written in the configuration.
    address: &'a str,
    weight: u32,
    /// As `wxgate_upstream_up` has it.
    up: bool,
    in_flight: usize,
    /// What a host name was found to be.
    resolved: Vec<SocketAddr>,
}

pub(super) async fn list(State(admin): State<Arc<Admin>>) -> Response {
    let view = admin.view.load();
    let upstreams = view.upstreams.iter().map(|upstream| shown(upstream)).collect();
    answer::json(StatusCode::OK, Upstreams { upstreams })
}

fn shown(upstream: &Upstream) -> Shown<'_> {
    let written = &upstream.config.servers;
    let servers = upstream.servers().zip(written).map(|(server, written)| Server {
        address: &written.address,
        weight: written.weight,
        up: server.is_up(),
        in_flight: server.in_flight(),
        resolved: server.addresses(),
    });
    Shown {
        name: &upstream.config.name,
        balance: upstream.config.balance,
        up: upstream.is_up(),
        servers: servers.collect(),
    }
}
