//! A fake WeChat: `/sns/jscode2session` with every answer that WeChat or a broken network gives.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::{DEADLINE, set_reset_on_close};

/// The app that every test has unless it says otherwise.
pub(crate) const APPID: &str = "wx0123456789abcdef";
/// Its secret.
pub(crate) const SECRET: &str = "appsecret-5f0c3d9a7b1e4826";

/// WeChat's access_token of every app.
pub(crate) const ACCESS_TOKEN: &str = "75_access-token-that-only-admins-see";

/// How long a slow drip waits between two bytes; a whole answer takes some 15 seconds so.
const DRIP: Duration = Duration::from_millis(150);

/// The openid of a user of the fake WeChat.
pub(crate) fn openid_of(user: &str) -> String {
    format!("o{user:_<27}")
}

/// The unionid of a user, where one is given.
pub(crate) fn unionid_of(user: &str) -> String {
    format!("u{user:_<27}")
}

/// The session_key of a user: 16 bytes in base64.
pub(crate) fn session_key_of(user: &str) -> String {
    let bytes: Vec<u8> = user.bytes().cycle().zip(0..16).map(|(byte, n)| byte ^ (n * 7)).collect();
    BASE64_STANDARD.encode(bytes)
}

/// The `iv` of [`encrypted`].
pub(crate) const IV: &[u8; 16] = b"0123456789abcdef";

/// `encryptedData` and `iv` as WeChat makes them with this session_key.
pub(crate) fn encrypted(session_key: &str, plain: &str) -> serde_json::Value {
    let key: [u8; 16] = BASE64_STANDARD.decode(session_key).unwrap().try_into().unwrap();
    let data = libaes::Cipher::new_128(&key).cbc_encrypt(IV, plain.as_bytes());
    let encode = |bytes: &[u8]| BASE64_STANDARD.encode(bytes);
    serde_json::json!({ "encryptedData": encode(&data), "iv": encode(IV) })
}

/// What WeChat makes of a code.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// This body with HTTP 200 and WeChat's `text/plain`.
    Body(String),
    /// This body with another status.
    Status(u16, String),
    /// An `errcode` with the usual `errmsg` that ends in a trace id.
    Errcode(i64),
    /// Nothing, until the gateway gives up.
    Hang,
    /// The good answer of this user after [`FakeWechat::release`].
    Held(String),
    /// A reset instead of an answer.
    Reset,
    /// Half of the good answer of this user, then the end of the connection.
    Half(String),
    /// The same, and a reset.
    Torn(String),
    /// The good answer of this user, a byte now and then, for longer than anybody waits.
    Drip(String),
    /// So many bytes of JSON.
    Huge(usize),
    /// These bytes, which may not be HTTP.
    Raw(Vec<u8>),
}

/// One call as it came: the parameters in order.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Call {
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let mut values = self.parameters.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} came twice: {self:?}");
        value
    }
}

#[derive(Default)]
struct Shared {
    /// By path, for all but the login.
    answers: Mutex<HashMap<String, Play>>,
    plays: Mutex<HashMap<String, Play>>,
    calls: Mutex<Vec<Call>>,
    used: Mutex<HashSet<String>>,
    codes: AtomicUsize,
    released: (Mutex<bool>, Condvar),
    stopped: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

/// The fake WeChat. A code that it gave out works once; others are invalid.
pub(crate) struct FakeWechat {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl FakeWechat {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if state.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let state = Arc::clone(&state);
                std::thread::spawn(move || drop(serve(&stream, &state)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What `wx.login()` of this user gives: a code that works once.
    pub(crate) fn code_of(&self, user: &str) -> String {
        let code = self.unknown_code(user);
        self.plays(&code, Play::Body(good_body(user, None)));
        code
    }

    /// The same for a user whose unionid WeChat tells.
    pub(crate) fn code_with_unionid_of(&self, user: &str) -> String {
        let code = self.unknown_code(user);
        self.plays(&code, Play::Body(good_body(user, Some(&unionid_of(user)))));
        code
    }

    /// A code that WeChat has not given out.
    pub(crate) fn unknown_code(&self, user: &str) -> String {
        format!("code-{user}-{}", self.shared.codes.fetch_add(1, Ordering::SeqCst))
    }

    /// A code that is answered so.
    pub(crate) fn code_that(&self, play: Play) -> String {
        let code = self.unknown_code("scripted");
        self.plays(&code, play);
        code
    }

    /// What every call of this path is answered with from now on, but the login's.
    pub(crate) fn answers(&self, path: &str, play: Play) {
        self.shared.answers.lock().unwrap().insert(path.to_owned(), play);
    }

    fn plays(&self, code: &str, play: Play) {
        self.shared.plays.lock().unwrap().insert(code.to_owned(), play);
    }

    /// Lets every [`Play::Held`] go on, now and later.
    pub(crate) fn release(&self) {
        *self.shared.released.0.lock().unwrap() = true;
        self.shared.released.1.notify_all();
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    pub(crate) fn calls_with(&self, code: &str) -> usize {
        self.calls().iter().filter(|call| call.parameter("js_code") == Some(code)).count()
    }
}

impl Drop for FakeWechat {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(self.address));
        self.release();
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

/// What WeChat says of a good code.
pub(crate) fn good_body(user: &str, unionid: Option<&str>) -> String {
    let mut body = serde_json::json!({
        "session_key": session_key_of(user),
        "openid": openid_of(user),
    });
    if let Some(unionid) = unionid {
        body["unionid"] = unionid.into();
    }
    body.to_string()
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    shared.streams.lock().unwrap().push(stream.try_clone()?);
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let mut request_line = String::new();
        if reader.read_line(&mut request_line)? == 0 {
            return Ok(());
        }
        let mut line = String::new();
        let mut length = 0;
        while reader.read_line(&mut line)? > 2 {
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let target = request_line.split(' ').nth(1).unwrap_or_default();
        let url = url::Url::parse(&format!("http://wechat.test{target}")).unwrap();
        let call = Call {
            path: url.path().to_owned(),
            parameters: url.query_pairs().into_owned().collect(),
            body: String::from_utf8(body).unwrap(),
        };
        shared.calls.lock().unwrap().push(call.clone());
        let play = play_of(&call, shared);
        if !perform(play, &mut writer, shared)? {
            shared
                .streams
                .lock()
                .unwrap()
                .retain(|known| known.peer_addr().ok() != stream.peer_addr().ok());
            return Ok(());
        }
    }
}

/// What WeChat does with these parameters; the checks are in its order.
fn play_of(call: &Call, shared: &Shared) -> Play {
    if let Some(play) = shared.answers.lock().unwrap().get(&call.path) {
        return play.clone();
    }
    match call.path.as_str() {
        "/sns/jscode2session" => {}
        "/cgi-bin/stable_token" => {
            let body = format!("{{\"access_token\":\"{ACCESS_TOKEN}\",\"expires_in\":7200}}");
            return Play::Body(body);
        }
        "/wxa/checksession" => return Play::Errcode(0),
        _ => return Play::Status(404, "not here".to_owned()),
    }
    if call.parameter("appid").is_none_or(|appid| !appid.starts_with("wx")) {
        return Play::Errcode(40013);
    }
    if call.parameter("secret") != Some(SECRET) {
        return Play::Errcode(40125);
    }
    let Some(code) = call.parameter("js_code") else { return Play::Errcode(41008) };
    let Some(play) = shared.plays.lock().unwrap().get(code).cloned() else {
        return Play::Errcode(40029);
    };
    let mut used = shared.used.lock().unwrap();
    if used.insert(code.to_owned()) { play } else { Play::Errcode(40163) }
}

/// Tells whether the connection goes on.
fn perform(play: Play, writer: &mut &TcpStream, shared: &Shared) -> std::io::Result<bool> {
    match play {
        Play::Body(body) => send(writer, 200, &body)?,
        Play::Status(status, body) => send(writer, status, &body)?,
        Play::Errcode(errcode) => {
            let errmsg = format!("refused, rid: 65f921eb-7384a760-54e2d8{:02}", errcode % 100);
            let body = serde_json::json!({ "errcode": errcode, "errmsg": errmsg });
            send(writer, 200, &body.to_string())?;
        }
        Play::Hang => {
            let mut stream: &TcpStream = writer;
            std::io::copy(&mut stream, &mut std::io::sink())?;
            return Ok(false);
        }
        Play::Held(user) => {
            let released = shared.released.0.lock().unwrap();
            let wait = shared.released.1.wait_timeout_while(released, DEADLINE, |open| !*open);
            drop(wait.unwrap());
            send(writer, 200, &good_body(&user, None))?;
        }
        Play::Reset => {
            set_reset_on_close(writer);
            return Ok(false);
        }
        Play::Half(user) => {
            send_half(writer, &user)?;
            return Ok(false);
        }
        Play::Torn(user) => {
            send_half(writer, &user)?;
            set_reset_on_close(writer);
            return Ok(false);
        }
        Play::Drip(user) => {
            let body = good_body(&user, None);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            writer.write_all(head.as_bytes())?;
            let released = &shared.released;
            for byte in body.bytes() {
                writer.write_all(&[byte])?;
                // Nobody releases it but the end of the test.
                let open = released.0.lock().unwrap();
                if *released.1.wait_timeout(open, DRIP).unwrap().0 {
                    return Ok(false);
                }
            }
        }
        Play::Huge(length) => {
            let padding = "x".repeat(length);
            let body = good_body("huge", None).replace('}', &format!(",\"pad\":\"{padding}\"}}"));
            send(writer, 200, &body)?;
        }
        Play::Raw(bytes) => {
            writer.write_all(&bytes)?;
            return Ok(false);
        }
    }
    Ok(true)
}

fn send_half(writer: &mut &TcpStream, user: &str) -> std::io::Result<()> {
    let body = good_body(user, None);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    writer.write_all(head.as_bytes())?;
    writer.write_all(&body.as_bytes()[..body.len() / 2])
}

fn send(writer: &mut &TcpStream, status: u16, body: &str) -> std::io::Result<()> {
    // The real one says text/plain for JSON.
    let head = format!(
        "HTTP/1.1 {status} Answer\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    writer.write_all(format!("{head}{body}").as_bytes())
}
