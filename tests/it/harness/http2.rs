//! A client of HTTP/2 over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::DEADLINE;
use super::tls::NAME;

/// An answer to one stream.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// A connection.
pub(crate) struct Http2 {
    pub(crate) runtime: Runtime,
    pub(crate) sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// What a stream sends.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    /// One DATA frame each; the last ends the stream unless there are trailers.
    pub(crate) frames: &'a [&'a [u8]],
    pub(crate) trailers: Option<HeaderMap>,
}

impl<'a> Call<'a> {
    pub(crate) fn get(target: &'a str, headers: &'a [(&'a str, &'a str)]) -> Self {
        Self { method: "GET", target, headers, frames: &[], trailers: None }
    }

    pub(crate) fn post(
        target: &'a str,
        headers: &'a [(&'a str, &'a str)],
        frames: &'a [&'a [u8]],
    ) -> Self {
        Self { method: "POST", target, headers, frames, trailers: None }
    }

    fn head(&self) -> Request<()> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(format!("https://{NAME}{}", self.target))
            .version(http::Version::HTTP_2);
        for (name, value) in self.headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }
}

impl Http2 {
    /// Connects, with the limits that the gateway's settings tell.
    pub(crate) fn open(address: SocketAddr, config: &Arc<ClientConfig>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let config = Arc::clone(config);
        let (sender, driver) = runtime.block_on(async move {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from(NAME).unwrap();
            let stream = TlsConnector::from(config).connect(name, socket).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let (sender, connection) = h2::client::handshake(stream).await.unwrap();
            let driver = tokio::spawn(connection);
            (sender.ready().await.unwrap(), driver)
        });
        Self { runtime, sender, driver }
    }

    pub(crate) fn send(&self, call: &Call<'_>) -> Result<Answer, h2::Error> {
        let limited = async { timeout(DEADLINE, exchange(self.sender.clone(), call)).await };
        self.runtime.block_on(limited).expect("no answer in time")
    }

    /// Sends all at once; the answers in the order of the calls.
    pub(crate) fn send_all(&self, calls: &[Call<'_>]) -> Vec<Result<Answer, h2::Error>> {
        let calls = calls.iter().map(|call| exchange(self.sender.clone(), call));
        let all = futures_util::future::join_all(calls);
        self.runtime.block_on(async { timeout(DEADLINE, all).await }).expect("no answers in time")
    }

    /// Sends a body that never ends, a piece at a time, until there is an answer.
    pub(crate) fn drip(
        &self,
        target: &str,
        piece: &[u8],
        every: Duration,
    ) -> Result<Answer, h2::Error> {
        let dripping = async {
            let mut sender = self.sender.clone().ready().await?;
            let (response, mut body) =
                sender.send_request(Call::post(target, &[], &[]).head(), false)?;
            let mut answer = std::pin::pin!(read_answer(response));
            loop {
                // A gateway that has answered already may take no more.
                drop(body.send_data(Bytes::copy_from_slice(piece), false));
                if let Ok(answer) = timeout(every, &mut answer).await {
                    return answer;
                }
            }
        };
        // A gateway is patient with what drips.
        let limited = async { timeout(2 * DEADLINE, dripping).await };
        self.runtime.block_on(limited).expect("no answer in time")
    }

    /// Waits for the connection's end.
    pub(crate) fn end(self) -> Result<(), h2::Error> {
        let Self { runtime, sender, driver } = self;
        let end = runtime.block_on(async { timeout(DEADLINE, driver).await });
        drop(sender);
        end.expect("the connection does not end").unwrap()
    }
}

async fn exchange(sender: SendRequest<Bytes>, call: &Call<'_>) -> Result<Answer, h2::Error> {
    let mut sender = sender.ready().await?;
    let no_body = call.frames.is_empty() && call.trailers.is_none();
    let (response, mut body) = sender.send_request(call.head(), no_body)?;
    for (index, frame) in call.frames.iter().enumerate() {
        let last = index + 1 == call.frames.len() && call.trailers.is_none();
        // A gateway that has answered already may take no more.
        if body.send_data(Bytes::copy_from_slice(frame), last).is_err() {
            break;
        }
    }
    if let Some(trailers) = &call.trailers {
        body.send_trailers(trailers.clone())?;
    }
    read_answer(response).await
}

async fn read_answer(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut received) = response.await?.into_parts();
    let mut answer = Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: Vec::new(),
        trailers: None,
    };
    while let Some(bytes) = received.data().await {
        let bytes = bytes?;
        received.flow_control().release_capacity(bytes.len())?;
        answer.body.extend_from_slice(&bytes);
    }
    answer.trailers = received.trailers().await?;
    Ok(answer)
}
