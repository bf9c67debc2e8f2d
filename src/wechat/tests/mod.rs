//! A scripted WeChat that fails in every way a server can.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod login;
mod token;

use std::net::SocketAddr;
use std::sync::Mutex;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use url::Url;

use super::*;
use crate::config::AppKind;

const APPID: &str = "wx0123456789abcdef";
const SECRET: &str = "a-secret-that-no-log-may-show";
const GOOD: &str =
    r#"{"session_key":"tiihtNczf5v6AKRyjwEUhQ==","openid":"oGZUI0egBJY1zhBYw2KhdUfwVJJE"}"#;
/// Long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(10);
/// For the tests that wait for it to pass.
const HASTY: Duration = Duration::from_millis(300);

/// What the scripted WeChat does with a request.
#[derive(Clone)]
enum Act {
    /// A whole answer of this status line and content type.
    Say(&'static str, &'static str, String),
    /// These bytes, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes, then a reset.
    Reset(Vec<u8>),
    /// One byte of a good answer each 50 ms.
    Drip,
    /// Nothing, for ever.
    Hang,
    /// A good answer once the test says so.
    Wait(Arc<Notify>),
}

fn good() -> Act {
    json(GOOD)
}

fn json(body: &str) -> Act {
    Act::Say("200 OK", "text/plain", body.to_owned())
}

/// A WeChat that answers every request by one script and keeps what it was asked.
#[derive(Clone)]
struct Script {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    plan: Arc<Mutex<Plan>>,
}

/// What to do with a request: its head and body as text.
type Plan = Box<dyn FnMut(&str) -> Act + Send>;

impl Script {
    async fn start(act: Act) -> Self {
        Self::planned(move |_| act.clone()).await
    }

    async fn planned(plan: impl FnMut(&str) -> Act + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            plan: Arc::new(Mutex::new(Box::new(plan))),
        };
        let shared = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(shared.clone().serve(stream));
            }
        });
        script
    }

    async fn serve(self, mut stream: TcpStream) {
        loop {
            let Some(request) = read_request(&mut stream).await else { return };
            self.requests.lock().unwrap().push(request.clone());
            let act = (self.plan.lock().unwrap())(&request);
            if !perform(act, &mut stream).await {
                return;
            }
        }
    }

    fn asked(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// How many requests were for this path.
    fn asked_for(&self, path: &str) -> usize {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| request.contains(path)).count()
    }

    fn said(&self) -> String {
        self.requests.lock().unwrap().join("\n")
    }

    fn now(&self, act: Act) {
        *self.plan.lock().unwrap() = Box::new(move |_| act.clone());
    }

    fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.address)).unwrap()
    }
}

/// Head and body of the next request; `None` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(request).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}

fn say(status: &str, content_type: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Whether the connection goes on. Write errors mean that the client left, which is its right.
async fn perform(act: Act, stream: &mut TcpStream) -> bool {
    match act {
        Act::Say(status, content_type, body) => {
            stream.write_all(&say(status, content_type, &body)).await.is_ok()
        }
        Act::Raw(bytes) => {
            drop(stream.write_all(&bytes).await);
            false
        }
        Act::Reset(bytes) => {
            drop(stream.write_all(&bytes).await);
            stream.set_zero_linger().unwrap();
            false
        }
        Act::Drip => {
            for byte in say("200 OK", "text/plain", GOOD) {
                if stream.write_all(&[byte]).await.is_err() {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            true
        }
        Act::Hang => std::future::pending().await,
        Act::Wait(notify) => {
            notify.notified().await;
            stream.write_all(&say("200 OK", "text/plain", GOOD)).await.is_ok()
        }
    }
}

struct Gateway {
    wechat: Wechat,
    metrics: Arc<Metrics>,
    clock: Clock,
}

fn settings(hosts: Vec<Url>) -> config::Wechat {
    config::Wechat {
        api_base: hosts,
        open_base: Url::parse("https://open.weixin.qq.com").unwrap(),
        timeout: PATIENT,
        max_concurrent: 64,
    }
}

fn hasty(hosts: Vec<Url>) -> config::Wechat {
    config::Wechat { timeout: HASTY, ..settings(hosts) }
}

fn app() -> config::App {
    config::App {
        appid: APPID.to_owned(),
        secret: Secret::new(SECRET.to_owned()),
        kind: AppKind::MiniProgram,
    }
}

fn gateway(settings: &config::Wechat, replay_window: Duration) -> Gateway {
    let metrics = Arc::new(Metrics::new().unwrap());
    let clock = Clock::set_to(1_800_000_000_000);
    let (time, counts) = (clock.clone(), Arc::clone(&metrics));
    let memory = Arc::default();
    let wechat = Wechat::build(settings, &[app()], replay_window, time, counts, memory);
    Gateway { wechat: wechat.unwrap(), metrics, clock }
}

fn before(script: &Script) -> Gateway {
    gateway(&settings(vec![script.url()]), Duration::from_secs(10))
}

impl Gateway {
    async fn login(&self, code: &str) -> Result<Arc<Code2Session>, WechatError> {
        self.wechat.code2session(APPID, code).await
    }

    fn counted(&self, errcode: &str) -> u64 {
        self.counted_for("jscode2session", errcode)
    }

    fn counted_for(&self, api: &str, errcode: &str) -> u64 {
        self.metrics.wechat_requests.with_label_values(&[api, errcode]).get()
    }
}

fn refused_port() -> Url {
    // Bound and closed again: nobody listens there.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
}

fn unavailable(why: Outage) -> WechatError {
    WechatError::Unavailable { why, retry_after: Duration::from_secs(1) }
}
