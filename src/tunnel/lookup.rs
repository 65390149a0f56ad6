//! Where a backend is that has to be looked up: asked again and again, and the last good answer counts.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, AUTHORIZATION, CONNECTION, HOST, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Hands;
use super::outputs::Sink;
use crate::dial::launch;
use crate::model::{Address, HttpCheck, LookupPlan, LookupSource, ProgramPlan, quote, spoken};
use crate::sys::{Stream, connect};

/// The most of an answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;
const AGENT: &str = concat!("changeover/", env!("CARGO_PKG_VERSION"));

/// Asks for ever, and tells each address that is another than the one before.
pub(super) async fn look_up(
    hands: Rc<Hands>,
    plan: LookupPlan,
    mark: String,
    sink: Sink,
    found: mpsc::Sender<Address>,
) {
    let mut last = None;
    loop {
        match asked(&hands, &plan, &mark).await {
            Ok(address) if last.as_ref() == Some(&address) => {}
            Ok(address) => {
                sink.note(&format!("its address is {address}"));
                last = Some(address.clone());
                if found.send(address).await.is_err() {
                    return;
                }
            }
            Err(why) => sink.note(&format!("its address is not found: {why}")),
        }
        sleep(plan.interval).await;
    }
}

async fn asked(hands: &Hands, plan: &LookupPlan, mark: &str) -> Result<Address, String> {
    let limit = plan.timeout;
    let asked = async {
        match &plan.source {
            LookupSource::Command(program) => by_program(hands, program, mark).await,
            LookupSource::Http { address, request, pointer } => by_http(address, request, pointer, limit).await,
        }
    };
    timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer within {}", spoken(limit))))
}

/// The first line of what `program` says that is an address.
async fn by_program(hands: &Hands, program: &Arc<ProgramPlan>, mark: &str) -> Result<Address, String> {
    let mut child = hands.spawner.spawn(launch(program, 0, false, mark.to_owned())).await.map_err(|error| {
        let name = program.argv.first().map(ToString::to_string).unwrap_or_default();
        format!("`{name}` {error}")
    })?;
    let failed = |error: io::Error| format!("its answer cannot be read: {error}");
    let output = child.output.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let pipe = pipe::Receiver::from_owned_fd(output).map_err(failed)?;
    let mut answer = Vec::new();
    pipe.take(ANSWER_MAX as u64).read_to_end(&mut answer).await.map_err(failed)?;
    let status = child.ended().await.map_err(failed)?;
    let answer = String::from_utf8_lossy(&answer);
    let mut lines = answer.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    if !status.success() {
        return Err(format!("{status}: {}", quote(first)));
    }
    let found = lines.find_map(|line| address(line).ok());
    found.ok_or_else(|| format!("{} is no address, such as tcp://db.example.com:5432", quote(first)))
}

async fn by_http(at: &Address, asked: &HttpCheck, pointer: &str, limit: Duration) -> Result<Address, String> {
    let stream = connect(at, limit).await.map_err(|error| format!("{at}: {error}"))?;
    let request = request(at, asked).map_err(|error| format!("the request cannot be sent: {error}"))?;
    let body = exchange(TokioIo::new(stream), request, asked).await.map_err(|error| format!("{at}: {error}"))?;
    let json: serde_json::Value = serde_json::from_slice(&body).map_err(|error| format!("{at}: no JSON: {error}"))?;
    let text = json.pointer(pointer).ok_or_else(|| format!("{at}: the answer has nothing at {}", quote(pointer)))?;
    let text = text.as_str().ok_or_else(|| format!("{at}: at {} is no text", quote(pointer)))?;
    address(text).map_err(|()| format!("{at}: {} is no address, such as tcp://db.example.com:5432", quote(text)))
}

fn request(at: &Address, asked: &HttpCheck) -> Result<Request<Empty<Bytes>>, Box<dyn std::error::Error>> {
    let host = match at {
        Address::Unix(_) => "localhost".to_owned(),
        Address::Ip(_) | Address::Name { .. } => at.to_string(),
    };
    let mut request = Request::builder()
        .method(Method::from_bytes(asked.method.as_bytes())?)
        .uri(&asked.path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .header(ACCEPT, "application/json")
        .header(CONNECTION, "close");
    if let Some(secret) = &asked.authorization {
        let mut value = HeaderValue::from_str(secret.expose())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    Ok(request.body(Empty::new())?)
}

async fn exchange(io: TokioIo<Stream>, request: Request<Empty<Bytes>>, asked: &HttpCheck) -> Result<Bytes, String> {
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(io).await.map_err(said)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status().as_u16();
        if !asked.expect.iter().any(|range| range.contains(status)) {
            return Err(format!("answered {status}"));
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
    };
    // Its end is the end of the body, which is what is waited for.
    let moved = async {
        drop(connection.await);
        std::future::pending::<()>().await;
    };
    // Cancel-safety: nothing is read after this.
    tokio::select! {
        answer = answer => answer,
        () = moved => Err("closed early".to_owned()),
    }
}

/// `tcp://host:port` or `host:port`.
fn address(text: &str) -> Result<Address, ()> {
    let text = text.trim().trim_end_matches('/');
    let address: Address = text.strip_prefix("tcp://").unwrap_or(text).parse().map_err(drop)?;
    match address {
        Address::Ip(_) | Address::Name { .. } => Ok(address),
        // A file of this host is no place to be led to by others.
        Address::Unix(_) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn an_address_is_read_with_or_without_its_scheme() {
        for (text, read) in [
            ("tcp://4.tcp.ngrok.io:12345", Some("4.tcp.ngrok.io:12345")),
            (" 10.0.0.1:5432\n", Some("10.0.0.1:5432")),
            ("tcp://[::1]:5432/", Some("[::1]:5432")),
            ("http://a:1", None),
            ("unix:/run/s", None),
            ("nothing", None),
            ("", None),
        ] {
            assert_eq!(address(text).ok().map(|address| address.to_string()).as_deref(), read, "{text}");
        }
    }
}
