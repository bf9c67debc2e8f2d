//! The sandbox over HTTP, as a client sees it.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod logins;
mod signed;
mod web;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const APP: &str = "wx00000000000000aa";
const OTHER: &str = "wx00000000000000bb";

const NOW: u64 = 1_800_000_000_000;

struct Sandbox {
    address: SocketAddr,
    clock: Clock,
}

/// Status, head (as it came, and in lower case) and body of an answer.
struct Answer {
    status: u16,
    raw_head: String,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The value of a header, given its name in lower case with `: `.
    fn raw_header(&self, name: &str) -> &str {
        self.raw_head.lines().find_map(|line| line.strip_prefix(name)).unwrap()
    }

    fn errcode(&self) -> i64 {
        self.json().get("errcode").unwrap().as_i64().unwrap()
    }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).unwrap().as_str().unwrap().to_owned()
}

/// One request over a connection of its own.
async fn send(address: SocketAddr, request: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer {
        status,
        raw_head: head.to_owned(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

impl Sandbox {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let clock = Clock::set_to(NOW);
        let apps = [(APP, "right"), (OTHER, "other")]
            .map(|(appid, secret)| (appid.to_owned(), Secret::new(secret.to_owned())));
        tokio::spawn(serve(listener, apps.to_vec(), clock.clone()));
        Self { address, clock }
    }

    async fn get(&self, path: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\r\n");
        send(self.address, &head).await
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: sandbox\r\nConnection: close\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        send(self.address, &request).await
    }

    /// An access_token of `APP`.
    async fn token(&self) -> String {
        let wanted = json!({"grant_type": "client_credential", "appid": APP, "secret": "right"});
        let answer = self.post("/cgi-bin/stable_token", &wanted.to_string()).await.json();
        text(&answer, "access_token")
    }

    /// `POST /sandbox/{what}` of a user of `APP`.
    async fn act(&self, what: &str, user: &str) -> Value {
        let order = json!({"appid": APP, "user": user}).to_string();
        let answer = self.post(&format!("/sandbox/{what}"), &order).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    async fn log_in(&self, appid: &str, user: &str) -> String {
        let order = json!({"appid": appid, "user": user}).to_string();
        let answer = self.post("/sandbox/login", &order).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json().get("code").unwrap().as_str().unwrap().to_owned()
    }

    async fn exchange(&self, code: &str) -> Answer {
        self.get(&exchange_path(APP, "right", code)).await
    }

    async fn fault(&self, order: Value) -> Answer {
        self.post("/sandbox/fault", &order.to_string()).await
    }
}

fn exchange_path(appid: &str, secret: &str, code: &str) -> String {
    format!(
        "/sns/jscode2session?appid={appid}&secret={secret}&js_code={code}\
         &grant_type=authorization_code"
    )
}
