//! One request: signed, within its time, and never elsewhere than it was meant for: a redirection is not followed.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::hmac;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::model::{Address, EventRecord, WallTime, WebhookPlan, spoken};
use crate::sys::{Clock, Stream, connect};
use crate::wire::HTTP_AGENT;

use super::trust::Trust;

/// What a receiver said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// How long it wants to be left alone.
    pub(super) retry_after: Option<Duration>,
}

/// Posts to one receiver.
pub(super) struct Poster {
    plan: Arc<WebhookPlan>,
    clock: Clock,
    trust: Trust,
}

impl Poster {
    pub(super) fn new(plan: Arc<WebhookPlan>, clock: Clock) -> Self {
        let trust = Trust::new(plan.ca_file.clone(), clock);
        Self { plan, clock, trust }
    }

    /// Posts `body`, which says `event`, once. The error is for people, and has nothing of the URL but the host.
    pub(super) async fn post(&mut self, event: &EventRecord, body: Bytes) -> Result<Answer, String> {
        let limit = self.plan.timeout;
        timeout(limit, self.exchange(event, body))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {}", spoken(limit))))
    }

    async fn exchange(&mut self, event: &EventRecord, body: Bytes) -> Result<Answer, String> {
        let request = self.request(event, body)?;
        let url = &self.plan.url;
        let stream = connect(&url.address, self.plan.timeout).await.map_err(|error| error.to_string())?;
        let Stream::Tcp(stream) = stream else { return Err("a URL leads to no Unix socket".to_owned()) };
        if !url.is_tls {
            return ask(request, stream, self.clock).await;
        }
        let secured = self.trust.connector().await?.connect(Trust::name(&url.address)?, stream).await;
        match secured {
            Ok(stream) => ask(request, stream, self.clock).await,
            Err(error) => {
                self.trust.forget();
                Err(format!("TLS: {error}{}", self.trust.advice(&error)))
            }
        }
    }

    fn request(&self, event: &EventRecord, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let (url, now) = (&self.plan.url, self.clock.wall(self.clock.now()).as_micros() / 1_000_000);
        let mut request = Request::post(&url.path)
            .header(HOST, &url.authority)
            .header(USER_AGENT, HTTP_AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close")
            .header("changeover-event", &event.kind)
            .header("changeover-delivery", event.id)
            .header("changeover-timestamp", now);
        if let Some(secret) = &self.plan.secret {
            request = request.header("changeover-signature", signature(secret.expose(), now, &body));
        }
        request.body(Full::new(body)).map_err(|error| error.to_string())
    }
}

/// `v1=` and the HMAC-SHA-256 of the time, a full stop and the body, in hexadecimal digits.
fn signature(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let mut signing = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    signing.update(format!("{timestamp}.").as_bytes());
    signing.update(body);
    let digits: String = signing.sign().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("v1={digits}")
}

/// What is answered to `request` over `stream`. Of the answer only the head is read.
async fn ask<S>(request: Request<Full<Bytes>>, stream: S, clock: Clock) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let failed = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answered = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = asked.and_then(|text| pause(text, clock.wall(clock.now())));
        Ok(Answer { status: response.status().as_u16(), retry_after })
    };
    tokio::pin!(connection);
    // Cancel-safety: the answer is wanted; the connection only drives it and may end before it is read.
    tokio::select! {
        biased;
        answer = answered => answer,
        Err(error) = &mut connection => Err(error.to_string()),
    }
}

/// How long `Retry-After` says to wait at `now`: it has seconds, or a date in any of the three forms of HTTP. One that is
/// over is no pause.
fn pause(retry_after: &str, now: WallTime) -> Option<Duration> {
    let text = retry_after.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_micros(u64::try_from(now.as_micros()).unwrap_or(0))))
}

impl Trust {
    /// The name by which a receiver's certificate has to know it.
    fn name(address: &Address) -> Result<rustls::pki_types::ServerName<'static>, String> {
        match address {
            Address::Ip(addr) => Ok(rustls::pki_types::ServerName::IpAddress(addr.ip().into())),
            Address::Name { host, .. } => {
                host.to_string().try_into().map_err(|error| format!("`{host}` can be in no certificate: {error}"))
            }
            Address::Unix(_) => Err("a Unix socket is in no certificate".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{pause, signature};
    use crate::model::WallTime;

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
        // 30.5 s before the date of the standard's examples.
        let now: WallTime = "1994-11-06T08:49:06.5Z".parse().unwrap_or_default();
        let dates = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"];
        for date in dates {
            assert_eq!(pause(date, now), Some(Duration::from_millis(30_500)), "{date}");
        }
        assert_eq!(pause(" 120 ", now), Some(Duration::from_secs(120)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:06 GMT", now), Some(Duration::ZERO), "it is over");
        for wrong in ["", "soon", "-1", "1.5", "Sun, 06 Nov 1994"] {
            assert_eq!(pause(wrong, now), None, "{wrong}");
        }
    }

    #[test]
    fn a_post_is_signed_with_its_time() {
        // By Python: hmac.new(b"s3cret", b"1700000000.{}", "sha256").hexdigest()
        let wanted = "v1=97926816e98fbb41ccb1673225ff29a2f35369099990e1b1561651e7bd097ebf";
        assert_eq!(signature("s3cret", 1_700_000_000, b"{}"), wanted);
    }
}
