//! Where a backend is that has to be looked up: asked again and again, and the last good answer counts. One that leads back to
//! ourselves is not good: each client would come again, through the tunnel, until there is no place left.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::Hands;
use super::outputs::Sink;
use crate::dial::{ask_http, launch};
use crate::model::{Address, HttpCheck, LookupPlan, LookupSource, ProgramPlan, quote, spoken};
use crate::sys::connect;
use crate::wire::http_request;

/// The most of an answer that is read, in bytes.
const ANSWER_MAX: usize = 64 << 10;

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
        let answer = asked(&hands, &plan, &mark, &sink).await;
        match answer.and_then(|address| elsewhere(&hands, address)) {
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

/// `address`, if it is none that we listen at now: that may be another one at any time.
fn elsewhere(hands: &Hands, address: Address) -> Result<Address, String> {
    if hands.doors.lead_back(&address) {
        return Err(format!("{address} is where we listen ourselves: clients would come back here"));
    }
    Ok(address)
}

async fn asked(hands: &Hands, plan: &LookupPlan, mark: &str, sink: &Sink) -> Result<Address, String> {
    // Before it is cut: the beginning of a secret is not known for one.
    let shown = |text: &str| quote(&sink.masked(text.to_owned()));
    let limit = plan.timeout;
    let asked = async {
        match &plan.source {
            LookupSource::Command(program) => by_program(hands, program, mark, shown).await,
            LookupSource::Http { address, request, pointer } => by_http(address, request, pointer, limit, shown).await,
        }
    };
    timeout(limit, asked).await.unwrap_or_else(|_| Err(format!("no answer within {}", spoken(limit))))
}

/// The first line of what `program` says that is an address.
async fn by_program(
    hands: &Hands,
    program: &Arc<ProgramPlan>,
    mark: &str,
    shown: impl Fn(&str) -> String,
) -> Result<Address, String> {
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
        return Err(format!("{status}: {}", shown(first)));
    }
    let found = lines.find_map(|line| address(line).ok());
    found.ok_or_else(|| format!("{} is no address, such as tcp://db.example.com:5432", shown(first)))
}

async fn by_http(
    at: &Address,
    asked: &HttpCheck,
    pointer: &str,
    limit: Duration,
    shown: impl Fn(&str) -> String,
) -> Result<Address, String> {
    let stream = connect(at, limit).await.map_err(|error| format!("{at}: {error}"))?;
    let request = http_request(at, asked, Some("application/json"))
        .map_err(|error| format!("the request cannot be sent: {error}"))?;
    let answered = ask_http(stream, request, async |response| body(response, asked).await).await;
    let body = answered.map_err(|error| error.to_string()).flatten().map_err(|error| format!("{at}: {error}"))?;
    let json: serde_json::Value = serde_json::from_slice(&body).map_err(|error| format!("{at}: no JSON: {error}"))?;
    let text = json.pointer(pointer).ok_or_else(|| format!("{at}: the answer has nothing at {}", quote(pointer)))?;
    let text = text.as_str().ok_or_else(|| format!("{at}: at {} is no text", quote(pointer)))?;
    address(text).map_err(|()| format!("{at}: {} is no address, such as tcp://db.example.com:5432", shown(text)))
}

/// The whole of an answer that is good news.
async fn body(response: Response<Incoming>, asked: &HttpCheck) -> Result<Bytes, String> {
    let status = response.status().as_u16();
    if !asked.expect.iter().any(|range| range.contains(status)) {
        return Err(format!("answered {status}"));
    }
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| error.to_string())
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
