//! Pingora's proxy and nothing else, `wxgate-bare LISTEN BACKEND`: what wxgate's full lane costs
//! beyond it is wxgate's own.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora::prelude::*;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::configuration::ServerConf;

struct Bare(SocketAddr);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, _: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.0, false, String::new())))
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (listen, backend) = (arguments.next(), arguments.next());
    let (Some(listen), Some(Ok(backend))) = (listen, backend.map(|text| text.parse())) else {
        println!("wxgate-bare {}: LISTEN BACKEND", env!("CARGO_PKG_VERSION"));
        return;
    };
    let conf = ServerConf {
        threads: 1,
        work_stealing: false,
        upstream_keepalive_pool_size: 1024,
        ..ServerConf::default()
    };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let conf = Arc::clone(&server.configuration);
    let mut service = http_proxy_service(&conf, Bare(backend));
    service.add_tcp(&listen);
    server.add_service(service);
    server.run_forever();
}
