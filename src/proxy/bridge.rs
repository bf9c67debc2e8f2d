//! The cookie bridge: keeps a backend's cookies for a client that keeps none. They are read before
//! a request leaves, go with it, and what the answer sets is kept before the client has it, so
//! that its next request, on whatever node, finds it.

use http::HeaderValue;
use http::header::{COOKIE, SET_COOKIE};
use pingora::http::{RequestHeader, ResponseHeader};
use url::Url;

use super::forward::Forward;
use super::rules::Rules;
use crate::config::TokenSource;
use crate::endpoints::Refusal;
use crate::route::table::Route;
use crate::session::{Cookies, Verified};

/// The bridge of one request.
#[derive(Debug)]
pub(crate) struct Bridge {
    /// What the backend is asked for, as far as cookies go by it.
    url: Url,
    cookies: Cookies,
}

impl Bridge {
    /// For a caller on a route with `cookie_bridge`; a guest has none.
    pub(crate) fn of(
        route: &Route,
        caller: Option<&Verified>,
        host: &str,
        target: &str,
    ) -> Option<Self> {
        caller.filter(|_| route.cookie_bridge)?;
        // The client of these cookies is the gateway, and they never leave it but for the
        // backend: that is as good as the TLS that `Secure` asks for.
        let at = |host: &str| Url::parse(&format!("https://{host}{target}")).ok();
        let url = at(host.trim_end_matches('.')).or_else(|| at("localhost"))?;
        Some(Self { url, cookies: Cookies::default() })
    }

    /// Reads what was kept so far.
    ///
    /// # Errors
    /// 503 where the store cannot be read and `session.on_store_error` is deny.
    pub(crate) async fn look_up(
        &mut self,
        rules: &Rules,
        caller: &Verified,
        upstream: usize,
    ) -> Result<(), Refusal> {
        if let Some(upstream) = rules.config.upstreams.get(upstream) {
            self.cookies = rules.sessions.cookies(caller, &upstream.name).await?;
        }
        Ok(())
    }

    /// The one `Cookie` of the request: the backend's own, and those of the client that are
    /// called otherwise. `None`: neither.
    fn cookie<'a>(&self, of_client: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
        let kept = self.cookies.jar.matching(&self.url);
        let named = |pair: &[u8]| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            kept.iter().any(|(kept, _)| kept == name)
        };
        let of_client = of_client
            .flat_map(|value| value.split(|byte| *byte == b';'))
            .map(<[u8]>::trim_ascii)
            .filter(|pair| !pair.is_empty() && !named(pair))
            .map(<[u8]>::to_vec);
        let of_backend = kept.iter().map(|(name, value)| [&**name, value].join(&b'='));
        let pairs: Vec<_> = of_backend.chain(of_client).collect();
        (!pairs.is_empty()).then(|| pairs.join(&b"; "[..]))
    }
}

/// Writes the cookies of a request, whose other headers are as the upstream gets them.
pub(crate) fn write_cookie(request: &mut RequestHeader, forward: &Forward) -> pingora::Result<()> {
    let Some(bridge) = &forward.bridge else { return Ok(()) };
    let of_client = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes);
    let Some(value) = bridge.cookie(of_client) else { return Ok(()) };
    let spelled = request
        .case_header_iter()
        .map(|(name, _)| name)
        .find(|name| name.as_slice().eq_ignore_ascii_case(b"cookie"))
        .cloned();
    match spelled {
        Some(name) => request.insert_header(name, value),
        None => request.insert_header("Cookie", value),
    }
}

/// Takes a backend's cookies out of its answer and keeps them; on other routes, and for a guest,
/// they pass.
///
/// # Errors
/// 503 where the store cannot keep them and `session.on_store_error` is deny.
pub(crate) async fn keep(forward: &Forward, response: &mut ResponseHeader) -> Result<(), Refusal> {
    let (Some(bridge), Some(caller)) = (&forward.bridge, forward.caller.as_deref()) else {
        return Ok(());
    };
    let lines = response.headers.get_all(SET_COOKIE);
    let lines: Vec<Vec<u8>> = lines.iter().map(|line| line.as_bytes().to_vec()).collect();
    response.remove_header(&SET_COOKIE);
    let upstream = forward.rules.config.upstreams.get(forward.route.upstream);
    let Some(upstream) = upstream.filter(|_| !lines.is_empty()) else { return Ok(()) };
    let never: Vec<&str> = forward
        .rules
        .config
        .session
        .token_from
        .iter()
        .filter_map(|place| match place {
            TokenSource::Cookie(name) => Some(name.as_str()),
            TokenSource::Authorization | TokenSource::Header(_) | TokenSource::Query(_) => None,
        })
        .collect();
    let cookies = bridge.cookies.clone();
    let keeping = forward.rules.sessions.keep_cookies(caller, &upstream.name, cookies, |jar| {
        lines.iter().for_each(|line| jar.set(line, &bridge.url, &never));
    });
    Ok(keeping.await?)
}
