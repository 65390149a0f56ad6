//! The admin server without its thread: what it does with time, on a clock that is not waited for.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use hyper::Request;
use hyper::header::HOST;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::ResolvesServerCertUsingSni;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::lease::Lease;
use super::{
    Access, Admin, Client, Credentials, HANDSHAKE_TIMEOUT, HEAD_TIMEOUT, Peer, Streams, routes, serve_client,
    serve_stream, take_idlest, within,
};
use crate::config::{Document, OsSources};
use crate::model::{AdminPlan, EventRecord, StorePlan};
use crate::routing::{Readiness, Registry, mailbox, route_cell};
use crate::settings::Settings;
use crate::store::{FIND_WITHIN, Filter, Opened, State, StoreHandle, Stuck, open};
use crate::sys::{Clock, Stream};
use crate::telemetry::Metrics;
use crate::tunnel::Outputs;

const CONFIG: &str = "[listeners.l]\nbind = \"127.0.0.1:0\"\npool = \"p\"\n[pools.p]\nbackends = [\"127.0.0.1:1\"]\n";

/// A server in memory, at which nobody may change anything, over TCP.
pub(super) fn admin() -> Admin {
    let Opened { handle, state } = open(&StorePlan::default(), Duration::ZERO, Clock::start()).unwrap();
    admin_of(handle, &state)
}

/// The same, of what is kept by `handle`.
fn admin_of(handle: StoreHandle, state: &State) -> Admin {
    let clock = Clock::start();
    let document = Document::parse("test.toml", CONFIG, &OsSources).unwrap();
    let (control, ..) = mailbox();
    let metrics = Arc::new(Metrics::new().unwrap());
    let (settings, _) = Settings::begin(document, state, control.clone(), handle.clone(), clock);
    Admin {
        control,
        routes: route_cell().1,
        registry: Registry::new(1),
        readiness: Readiness::default(),
        clock,
        settings,
        access: Access::new(Credentials::of(&AdminPlan { rate: None, ..AdminPlan::default() }).unwrap(), clock),
        streams: Streams::new(handle, metrics.subscribers()),
        outputs: Outputs::new(clock),
        metrics,
    }
}

/// A change of the pool's configuration that root asks for.
fn patch(body: &'static str) -> Request<Body> {
    let request = Request::patch("/api/v1/pools/p/failover-config").header(HOST, "localhost");
    request.extension(Peer::Unix { uid: Some(0) }).body(Body::from(body)).unwrap()
}

/// A client that has connected, and the server's end of that.
async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

fn tls() -> Arc<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    // It comes to no certificate.
    Arc::new(config.with_no_client_auth().with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())))
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_get_on_with_tls_is_cut() {
    let hello = [0x16, 0x03, 0x01, 0x02, 0x00];
    // Silent, and a byte now and then.
    for said in [&hello[..0], &hello[..4]] {
        let (mut client, server) = connected().await;
        let (_stop, stopped) = watch::channel(false);
        let begun = Instant::now();
        let served = serve_stream(axum::Router::new(), Stream::Tcp(server), Some(tls()), Lease::new(stopped));
        let speak = async {
            for byte in said {
                client.write_all(&[*byte]).await.unwrap();
                sleep(HANDSHAKE_TIMEOUT / 5).await;
            }
        };
        tokio::join!(served, speak);
        let took = begun.elapsed();
        assert!((HANDSHAKE_TIMEOUT..HANDSHAKE_TIMEOUT + Duration::from_secs(1)).contains(&took), "{took:?}");
        // Whatever was not read resets it.
        let end = client.read(&mut [0; 64]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}

/// Reads an answer without a body of interest; none at the end.
async fn status(client: &mut (impl AsyncReadExt + Unpin)) -> Option<String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        let byte = client.read_u8().await.ok()?;
        answer.push(byte);
    }
    Some(String::from_utf8(answer).unwrap().lines().next().unwrap().to_owned())
}

#[tokio::test(start_paused = true)]
async fn whoever_goes_on_asking_is_served_and_whoever_stops_halfway_or_altogether_is_cut() {
    let asked = async {
        let (mut client, server) = duplex(64 << 10);
        let (peer, lease) = (Peer::Unix { uid: Some(0) }, Lease::new(watch::channel(false).1));
        let router = routes::router(admin());
        let serving = spawn_local(async move { within(&lease, serve_client(router, peer, server, &lease)).await });
        // An hour.
        for _ in 0..720 {
            client.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
            assert_eq!(status(&mut client).await.as_deref(), Some("HTTP/1.1 200 OK"));
            sleep(HEAD_TIMEOUT / 2).await;
        }
        let late = Instant::now();
        let head = "PATCH /api/v1/pools/p/failover-config HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..100 {
            if client.write_all(b" ").await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        serving.await.unwrap();
        assert!(late.elapsed() < Duration::from_secs(32), "a body that drips: {:?}", late.elapsed());
        let (mut idle, server) = duplex(64 << 10);
        let (router, lease) = (routes::router(admin()), Lease::new(watch::channel(false).1));
        let serving = spawn_local(async move { within(&lease, serve_client(router, peer, server, &lease)).await });
        let rest = Instant::now();
        idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        assert!(status(&mut idle).await.is_some());
        assert_eq!(status(&mut idle).await, None);
        serving.await.unwrap();
        assert!(rest.elapsed() <= Duration::from_secs(30), "one that asks for no more: {:?}", rest.elapsed());
    };
    LocalSet::new().run_until(asked).await;
}

#[tokio::test]
async fn of_too_many_clients_one_goes_that_has_asked_for_nothing_of_late() {
    let chosen = async {
        let client = || {
            let served = spawn_local(std::future::pending::<()>()).abort_handle();
            Client { served, lease: Lease::new(watch::channel(false).1), asked: 0 }
        };
        let mut clients: VecDeque<Client> = (0..4).map(|_| client()).collect();
        let ids: Vec<_> = clients.iter().map(|client| client.served.id()).collect();
        // The first has an order under way, the second one has just been answered, and the others are silent.
        let _order = clients[0].lease.ask();
        drop(clients[1].lease.ask());
        let mut gone = Vec::new();
        while let Some(client) = take_idlest(&mut clients) {
            gone.push(ids.iter().position(|id| *id == client.served.id()).unwrap());
        }
        assert_eq!(gone, [2, 3, 1, 0]);
    };
    LocalSet::new().run_until(chosen).await;
}

/// The audit's events so far, oldest first.
async fn audited(admin: &Admin) -> Vec<Arc<EventRecord>> {
    let filter = Filter { kinds: vec!["admin.action".to_owned()], ..Filter::default() };
    admin.settings.store().events(filter, Some(0), 1000).await.unwrap().events
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_refusals_is_some_events_and_one_that_counts_the_rest() {
    let flood = async {
        let admin = admin();
        let router = TowerToHyperService::new(routes::router(admin.clone()));
        let pause = async || {
            let mut request =
                Request::post("/api/v1/pools/p/pause").header(HOST, "localhost").body(Body::empty()).unwrap();
            request.extensions_mut().insert(Peer::Tcp { remote: None, is_loopback: true });
            router.call(request).await.unwrap().status()
        };
        for _ in 0..100 {
            assert_eq!(pause().await, StatusCode::FORBIDDEN);
        }
        sleep(Duration::from_secs(61)).await;
        let events = audited(&admin).await;
        assert_eq!(events.len(), 61);
        let (last, singly) = events.split_last().unwrap();
        for event in singly {
            assert_eq!(event.detail["action"], "pool.pause");
            assert_eq!((event.actor.as_str(), event.status.as_deref()), ("anonymous", Some("failed")));
        }
        assert_eq!((&last.detail["action"], &last.detail["count"]), (&"refused".into(), &40.into()));
        assert_eq!((&last.detail["actors"], &last.detail["more_actors"]), (&json!(["anonymous"]), &0.into()));
        assert_eq!((&last.detail["addresses"], &last.detail["more_addresses"]), (&json!(["tcp"]), &0.into()));
        assert_eq!(last.time.as_micros() - singly[0].time.as_micros(), 60_000_000, "at the end of the minute");
        assert!(last.pool.is_none(), "it is of all of them");
        // The next minute does not begin anew for strangers, but the next hour.
        for _ in 0..5 {
            pause().await;
        }
        sleep(Duration::from_secs(600)).await;
        let events = audited(&admin).await;
        assert_eq!((events.len(), &events[61].detail["count"]), (62, &5.into()));
        assert_eq!(events[61].time.as_micros() - singly[0].time.as_micros(), 600_000_000, "ten minutes of the hour");
        sleep(Duration::from_secs(3000)).await;
        pause().await;
        let events = audited(&admin).await;
        assert_eq!((events.len(), &events[62].detail["action"]), (63, &singly[0].detail["action"]));
    };
    LocalSet::new().run_until(flood).await;
}

#[tokio::test]
async fn a_change_that_is_refused_is_noted_though_whoever_wanted_it_hangs_up() {
    let hung_up = async {
        let admin = admin();
        let router = TowerToHyperService::new(routes::router(admin.clone()));
        let request = patch(r#"{"check": {"interval": "soon"}}"#);
        // It is begun by one look at it, and dropped before it is answered. (A time-out of no time would look again.)
        assert!(pin!(router.call(request)).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let events = timeout(Duration::from_secs(20), async {
            loop {
                let events = audited(&admin).await;
                if !events.is_empty() {
                    return events;
                }
            }
        });
        let events = events.await.unwrap();
        assert_eq!(events[0].detail["action"], "failover_config.change");
        assert_eq!((events.len(), &events[0].detail["result"]), (1, &"invalid_value".into()));
        assert_eq!((events[0].actor.as_str(), events[0].status.as_deref()), ("uid:0", Some("failed")));
    };
    LocalSet::new().run_until(hung_up).await;
}

#[tokio::test]
async fn a_change_that_was_kept_while_the_daemon_goes_down_is_noted_once() {
    let kept = async {
        // There is nobody who could put it in force.
        let admin = admin();
        let router = TowerToHyperService::new(routes::router(admin.clone()));
        let request = patch(r#"{"failover": {"failback": "manual"}}"#);
        assert_eq!(router.call(request).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
        let results: Vec<_> =
            audited(&admin).await.iter().map(|event| (event.detail["result"].clone(), event.status.clone())).collect();
        assert_eq!(results, [("done".into(), Some("completed".to_owned()))]);
    };
    LocalSet::new().run_until(kept).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_is_answered_of_before_the_dashboard_gives_up() {
    let (stuck, handle) = Stuck::new();
    let admin = admin_of(handle, &State::default());
    let _of_the_start = stuck.take();
    let router = TowerToHyperService::new(routes::router(admin));
    let mut request = Request::get("/api/v1/pools/gone/events?backend=b").header(HOST, "localhost");
    request = request.extension(Peer::Tcp { remote: None, is_loopback: true });
    let begun = Instant::now();
    // What is not known to have been may have been; and one request is as much as waits there.
    let status = router.call(request.body(Body::empty()).unwrap()).await.unwrap().status();
    assert_eq!((status, begun.elapsed().is_zero()), (StatusCode::SERVICE_UNAVAILABLE, false));
    let given_up = include_str!("dashboard/api.js").lines().find_map(|line| line.strip_prefix("const TIMEOUT = "));
    let given_up = Duration::from_millis(given_up.unwrap().trim_end_matches(';').parse().unwrap());
    assert!(begun.elapsed() + FIND_WITHIN < given_up, "{:?} and {FIND_WITHIN:?}", begun.elapsed());
}

#[tokio::test]
async fn a_question_to_the_control_plane_without_an_answer_holds_up_no_history_and_no_sessions() {
    let (control, _, _busy) = mailbox();
    let router = TowerToHyperService::new(routes::router(Admin { control, ..admin() }));
    let get = |path: &str| {
        let request = Request::get(path).header(HOST, "localhost").extension(Peer::Unix { uid: Some(0) });
        router.call(request.body(Body::empty()).unwrap())
    };
    let mut waiting = pin!(get("/api/v1/pools"));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    for path in ["/api/v1/events", "/api/v1/sessions"] {
        let answer = timeout(Duration::from_secs(10), get(path)).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
    }
    assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it still waits");
}
