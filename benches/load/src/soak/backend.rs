//! A backend that says which request it got, framed now this way and now that.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Where it listens.
pub(crate) async fn start() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::task::spawn_local(serve(stream));
        }
    });
    port
}

async fn serve(mut stream: TcpStream) {
    let mut buffer = vec![0; 32 * 1024];
    let mut have = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer[have..]).await {
        have += count;
        while let Some((length, number)) = request(&buffer[..have]) {
            let (reply, goes_on) = answer(number);
            if stream.write_all(&reply).await.is_err() || !goes_on {
                return;
            }
            buffer.copy_within(length..have, 0);
            have -= length;
        }
    }
}

/// The length and the number of the request at the front, if it is whole.
fn request(bytes: &[u8]) -> Option<(usize, u64)> {
    let head = bytes.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap();
    let digits = text.strip_prefix("GET ").or(text.strip_prefix("POST ")).unwrap();
    let (target, _) = digits.split_once(' ').unwrap();
    let number = target.strip_prefix("/api/soak?number=").unwrap().parse().unwrap();
    let body = text
        .lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, digits)| digits.parse::<usize>().unwrap());
    (bytes.len() >= head + body).then_some((head + body, number))
}

/// The answer to a request, and whether the connection goes on after it.
fn answer(number: u64) -> (Vec<u8>, bool) {
    let filler = "x".repeat((number % 7 * number % 311) as usize);
    let body = format!("{number};{filler}");
    let reply = match number % 64 {
        0..4 => {
            let (first, second) = body.split_at(1);
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{first}\r\n{:X};e=1\r\n\
                 {second}\r\n0\r\n\r\n",
                second.len()
            )
        }
        4 => return (format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes(), false),
        5 => format!(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ),
        _ => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
    };
    (reply.into_bytes(), true)
}
