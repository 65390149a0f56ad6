//! What is written reads back, is decided the same, and holds no secret.
#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, reason = "a test that cannot go on shall panic")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;

use super::{Decision, FORMAT, Header, Line, Replay, Scribe, Turn};
use crate::failover::{Command, Controller, Event, Order, Sessions, TunnelOrder};
use crate::model::{
    Actor, AdminPlan, AdminState, Advice, AgentCheck, Approach, Argument, Attach, BackendId, BackendPlan, Balance,
    CheckError, CheckKind, CheckPlan, CommandCheck, DaemonPlan, DialError, DialPlan, Epoch, ExpectCheck, Failback,
    FailoverPlan, Fork, HealthState, HoldPlan, HttpCheck, LogPlan, LoginError, LookupPlan, LookupSource, Lsn, MonoTime,
    OutReason, Part, Plan, PoolKind, PoolName, PoolPlan, PostgresPlan, ProbeError, ProbeId, ProbeOutcome, ProgramPlan,
    Promotion, ProxyProtocol, PushedHealth, Resend, Role, RunEnd, RunId, Secret, ServerFacts, SessionPolicies,
    SessionPolicy, StatusRange, StorePlan, SystemId, TargetId, Text, Timeline, TlsMode, TunnelNews, TunnelPlan, Via,
    WatchEnd, WatchError, WatchId, WatchNews, WatchSession, WhenDown,
};

/// Events that go to JSON and back.
const EVENTS: usize = 5000;

fn command(argv: Vec<String>) -> CommandCheck {
    let argv = argv.into_iter().map(Argument::Shown).collect();
    CommandCheck { argv, pool: "p".into(), backend: "a".into() }
}

fn any<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.usize(..all.len())]
}

/// Whole spans, fractions, and the ends of the range.
fn time(rng: &mut Rng) -> Duration {
    match rng.u8(..8) {
        0 => Duration::ZERO,
        1 => Duration::MAX,
        2 => Duration::from_nanos(rng.u64(..)),
        _ => Duration::from_millis(rng.u64(..100_000)),
    }
}

fn maybe<T>(rng: &mut Rng, draw: impl FnOnce(&mut Rng) -> T) -> Option<T> {
    rng.bool().then(|| draw(rng))
}

/// Text with all that JSON has to escape.
fn text(rng: &mut Rng) -> String {
    let length = rng.usize(..12);
    (0..length).map(|_| any(rng, &['a', '"', '\\', '\n', '\u{0}', '\u{7f}', 'é', '\u{2028}', '😀', '/'])).collect()
}

fn kind(rng: &mut Rng) -> CheckKind {
    match rng.u8(..7) {
        0 => CheckKind::Tcp,
        1 => CheckKind::None,
        4 => CheckKind::Tls,
        5 => CheckKind::Expect(ExpectCheck {
            send: Secret::mask(rng.u64(..9)).expose().to_owned(),
            answer: Secret::mask(rng.u64(..9)).expose().to_owned(),
        }),
        2 => CheckKind::Agent(AgentCheck { port: rng.u16(..), send: Secret::mask(rng.u64(..9)).expose().to_owned() }),
        3 => CheckKind::Command(command(vec![text(rng), text(rng)])),
        _ => CheckKind::Http(HttpCheck {
            method: "HEAD".to_owned(),
            path: format!("/{}", text(rng)),
            port: rng.u16(..),
            expect: vec![StatusRange { first: rng.u16(..), last: rng.u16(..) }],
            authorization: maybe(rng, |rng| Secret::mask(rng.u64(..))),
        }),
    }
}

fn backend(rng: &mut Rng) -> BackendPlan {
    const ADDRESSES: [&str; 5] =
        ["10.0.0.1:5432", "[2001:db8::1]:80", "db-1.internal:1", "unix:/run/x y/s", "[fe80::1%2]:9"];
    BackendPlan {
        name: text(rng).as_str().into(),
        address: any(rng, &ADDRESSES).parse().unwrap(),
        priority: rng.u32(..),
        weight: rng.u32(..),
        max_connections: rng.u32(..),
        check: CheckPlan {
            kind: kind(rng),
            interval: time(rng),
            timeout: time(rng),
            unhealthy_threshold: rng.u32(..),
            healthy_threshold: rng.u32(..),
            recovery_interval: maybe(rng, time),
            recovery_attempts: rng.u32(..),
            recovery_backoff: time(rng),
            max_latency: maybe(rng, time),
        },
        approach: Approach {
            source_address: maybe(rng, |rng| any(rng, &["10.0.0.1", "::1"]).parse().unwrap()),
            send_proxy_protocol: any(rng, ProxyProtocol::ALL),
            via: maybe(rng, |rng| Arc::new(via(rng))),
        },
        tunnel: maybe(rng, |rng| Arc::new(tunnel(rng))),
    }
}

fn via(rng: &mut Rng) -> Via {
    Via {
        pool: text(rng).as_str().into(),
        backend: text(rng).as_str().into(),
        attach: any(rng, Attach::ALL),
        target: any(rng, &["db:5432", "unix:/run/x"]).parse().unwrap(),
    }
}

/// As it is written: what its programs are given is masked.
fn program(rng: &mut Rng) -> Arc<ProgramPlan> {
    let part = |rng: &mut Rng| match rng.u8(..4) {
        0 => Part::Shown(text(rng).into()),
        1 => Part::LocalPort,
        2 => Part::File,
        _ => Part::Hidden(Secret::mask(rng.u64(..9))),
    };
    let some = |rng: &mut Rng| Text((0..rng.usize(..3)).map(|_| part(rng)).collect());
    Arc::new(ProgramPlan {
        argv: (0..rng.usize(..3)).map(|_| some(rng)).collect(),
        env: (0..rng.usize(..3)).map(|_| (text(rng).into(), some(rng))).collect(),
        file: maybe(rng, some),
    })
}

fn tunnel(rng: &mut Rng) -> TunnelPlan {
    let source = if rng.bool() {
        LookupSource::Command(program(rng))
    } else {
        LookupSource::Http {
            address: "127.0.0.1:4040".parse().unwrap(),
            request: HttpCheck {
                method: "GET".to_owned(),
                path: format!("/{}", text(rng)),
                port: rng.u16(..),
                expect: vec![StatusRange { first: 200, last: rng.u16(..) }],
                authorization: maybe(rng, |rng| Secret::mask(rng.u64(..))),
            },
            pointer: text(rng).into(),
        }
    };
    let lookup = LookupPlan { source, interval: time(rng), timeout: time(rng) };
    TunnelPlan {
        via: Arc::new(via(rng)),
        provider: text(rng).into(),
        program: maybe(rng, program),
        proxy: maybe(rng, |_| "127.0.0.1:1055".parse().unwrap()),
        lookup: maybe(rng, |_| lookup),
        ready: maybe(rng, |rng| text(rng).into()),
        ready_timeout: time(rng),
        fatal: (0..rng.usize(..3)).map(|_| text(rng).into()).collect(),
        restart_after: rng.u32(..),
        retry_initial: time(rng),
        retry_max: time(rng),
        retry_reset: time(rng),
        stop_grace: time(rng),
    }
}

fn tunnel_news(rng: &mut Rng) -> TunnelNews {
    match rng.u8(..4) {
        0 => TunnelNews::Started { pid: rng.u32(..) },
        1 => TunnelNews::Open,
        2 => TunnelNews::Fatal { line: text(rng) },
        _ => TunnelNews::Ended { how: any(rng, RunEnd::ALL), detail: text(rng) },
    }
}

fn postgres(rng: &mut Rng) -> PostgresPlan {
    PostgresPlan {
        user: text(rng),
        password: maybe(rng, |rng| Secret::mask(rng.u64(..9))),
        database: text(rng),
        tls: any(rng, TlsMode::ALL),
        ca_file: maybe(rng, |_| "/etc/ssl/ca.pem".into()),
        session: any(rng, WatchSession::ALL),
        heartbeat: time(rng),
        heartbeat_deadline: time(rng),
        max_lag: rng.u64(..),
        max_lag_time: time(rng),
        promotion: Promotion::Never,
    }
}

fn facts(rng: &mut Rng) -> ServerFacts {
    let fork = |rng: &mut Rng| Fork { timeline: Timeline(rng.u32(..)), at: Lsn(rng.u64(..)) };
    ServerFacts {
        system: maybe(rng, |rng| SystemId(rng.u64(..))),
        timeline: maybe(rng, |rng| Timeline(rng.u32(..))),
        role: any(rng, Role::ALL),
        written: maybe(rng, |rng| Lsn(rng.u64(..))),
        replayed: maybe(rng, |rng| Lsn(rng.u64(..))),
        history: (0..rng.usize(..4)).map(|_| fork(rng)).collect(),
    }
}

fn news(rng: &mut Rng) -> WatchNews {
    match rng.u8(..9) {
        0 => WatchNews::Opened(facts(rng)),
        1 => WatchNews::Seen(facts(rng)),
        2 => WatchNews::Late { waited: time(rng), slowest: time(rng) },
        3 => WatchNews::OnTime { took: time(rng) },
        6 => WatchNews::TurnedAway { detail: text(rng) },
        7 => WatchNews::LetIn,
        4 => WatchNews::Ended { end: any(rng, WatchEnd::ALL), detail: text(rng) },
        5 => WatchNews::Failed { error: WatchError::Dial(any(rng, DialError::ALL)), detail: text(rng) },
        _ => WatchNews::Failed { error: WatchError::Login(any(rng, LoginError::ALL)), detail: text(rng) },
    }
}

fn pool(rng: &mut Rng) -> PoolPlan {
    let policy = |rng: &mut Rng| any(rng, SessionPolicy::ALL);
    PoolPlan {
        name: text(rng).as_str().into(),
        kind: any(rng, PoolKind::ALL),
        balance: any(rng, Balance::ALL),
        dial: DialPlan { connect_timeout: time(rng), connect_attempts: rng.usize(..), resend: any(rng, Resend::ALL) },
        hold: HoldPlan { when_down: any(rng, WhenDown::ALL), hold: time(rng), hold_limit: rng.usize(..) },
        failover: FailoverPlan {
            automatic: rng.bool(),
            failback: any(rng, Failback::ALL),
            failback_after: time(rng),
            sessions: SessionPolicies {
                dead: policy(rng),
                unreachable: policy(rng),
                demoted: policy(rng),
                lagging: policy(rng),
                check_failed: policy(rng),
                drained: policy(rng),
                failed_back: policy(rng),
            },
        },
        postgres: maybe(rng, |rng| Arc::new(postgres(rng))),
        backends: (0..rng.usize(..3)).map(|_| backend(rng)).collect(),
    }
}

/// Nothing but what is decided by.
fn plan(drain_timeout: Duration, pools: Vec<PoolPlan>) -> Arc<Plan> {
    let daemon = DaemonPlan {
        workers: 0,
        drain_timeout,
        max_sessions: 0,
        relay_buffer: 0,
        tcp_keepalive: Duration::ZERO,
        store: StorePlan::default(),
    };
    let pools = pools.into_iter().map(|pool| (pool.name.clone(), Arc::new(pool))).collect();
    let (admin, log) = (AdminPlan::default(), LogPlan::default());
    Arc::new(Plan { daemon, admin, log, listeners: BTreeMap::new(), pools, webhooks: BTreeMap::new() })
}

fn replaced(plan: Arc<Plan>) -> Event {
    Event::PlanReplaced { plan, actor: Actor::changeover() }
}

fn outcome(rng: &mut Rng) -> ProbeOutcome {
    match rng.u8(..4) {
        0 => {
            let advice =
                Advice { admin: maybe(rng, |rng| any(rng, AdminState::ALL)), weight: maybe(rng, |rng| rng.u8(..)) };
            ProbeOutcome::Passed { latency: time(rng), advice }
        }
        1 => ProbeOutcome::Failed { error: ProbeError::Dial(any(rng, DialError::ALL)), detail: text(rng) },
        2 => ProbeOutcome::Failed { error: ProbeError::Check(any(rng, CheckError::ALL)), detail: text(rng) },
        _ => ProbeOutcome::Inconclusive { error: None, detail: text(rng) },
    }
}

fn order(rng: &mut Rng) -> Order {
    let (pool, backend): (PoolName, _) = (text(rng).as_str().into(), text(rng).as_str().into());
    match rng.u8(..11) {
        9 => {
            let wanted = any(rng, &[TunnelOrder::Start, TunnelOrder::Stop, TunnelOrder::Restart]);
            Order::Tunnel { pool, backend, wanted }
        }
        0 => Order::SetAdminState { pool, backend, state: any(rng, AdminState::ALL) },
        1 => Order::Failover {
            pool,
            to: maybe(rng, |_| backend),
            reason: maybe(rng, text),
            sessions: any(rng, SessionPolicy::ALL),
        },
        2 => Order::Failback { pool },
        3 => Order::Pause { pool, until: maybe(rng, |rng| MonoTime::from_nanos(rng.u64(..))) },
        4 => Order::Resume { pool },
        5 => {
            // Every number there is, but for those that JSON cannot hold and the API does not take.
            let figures = (0..3).map(|_| (text(rng), f64::from_bits(rng.u64(..))));
            let figures = figures.filter(|(_, figure)| figure.is_finite()).collect();
            let until = MonoTime::from_nanos(rng.u64(..));
            let pushed = PushedHealth { health: any(rng, HealthState::ALL), until, reason: maybe(rng, text), figures };
            Order::PushHealth { pool, backend, pushed }
        }
        6 => Order::ReportFailure { pool, backend, error: text(rng) },
        7 => Order::ReportSuccess { pool, backend },
        8 => Order::Reset { pool, backend: maybe(rng, |_| backend) },
        _ => Order::Probe { pool, backend: maybe(rng, |_| backend) },
    }
}

fn event(rng: &mut Rng) -> Event {
    let (backend, epoch) = (BackendId(rng.u32(..)), Epoch(rng.u64(..)));
    match rng.u8(..13) {
        0 => Event::Tick,
        10 => Event::Tunnel { backend, run: RunId(rng.u64(..)), news: tunnel_news(rng) },
        11 => Event::TunnelMoved { backend, moved: rng.u64(..) },
        12 => Event::WorldChanged { what: text(rng) },
        8 => Event::Watched { backend, watch: WatchId(rng.u64(..)), news: news(rng) },
        1 => Event::ProbeFinished { target: TargetId(rng.u32(..)), probe: ProbeId(rng.u64(..)), outcome: outcome(rng) },
        2 => Event::DialFailed { backend, epoch, error: any(rng, DialError::ALL) },
        3 => Event::EndedEarly { backend, epoch, sessions: rng.u32(..), answered: rng.bool() },
        4 => Event::DataStalled { backend, epoch, silent: time(rng) },
        5 => Event::WasStalled { since: MonoTime::from_nanos(rng.u64(..)) },
        6 => {
            let answer = |rng: &mut Rng| (TargetId(rng.u32(..)), ProbeId(rng.u64(..)), outcome(rng));
            Event::ProbesFinished { answers: (0..rng.usize(..4)).map(|_| answer(rng)).collect() }
        }
        7 => Event::Ordered { actor: text(rng).as_str().into(), order: order(rng) },
        _ => {
            let drain_timeout = time(rng);
            let pools = (0..rng.usize(..3)).map(|_| pool(rng)).collect();
            replaced(plan(drain_timeout, pools))
        }
    }
}

#[test]
fn every_event_goes_through_json_unchanged() {
    let mut rng = Rng::with_seed(20_261_121);
    for number in 0..EVENTS {
        let turn = Turn { at: MonoTime::from_nanos(rng.u64(..)), event: event(&mut rng), commands: Vec::new() };
        let line = super::line(&turn).unwrap();
        assert_eq!(line.matches('\n').count(), 1, "one line: {line}");
        let read = Line::read(line.as_bytes());
        assert_eq!(read, Ok(Line::Turn(Box::new(turn))), "event {number}: {line}");
    }
}

/// A backend that is asked over HTTP with this authorization and path, and one with this command.
fn secretive(name: &str, authorization: &str, path: &str, argv: &[&str]) -> PoolPlan {
    let mut rng = Rng::with_seed(1);
    let mut pool = pool(&mut rng);
    let mut one = backend(&mut rng);
    one.priority = 1;
    one.weight = 1;
    one.approach = Approach::PLAIN;
    one.tunnel = None;
    (one.check.interval, one.check.timeout) = (Duration::from_secs(1), Duration::from_secs(1));
    let mut three = [one.clone(), one.clone(), one];
    for (backend, name) in three.iter_mut().zip(["a", "b", "c"]) {
        backend.name = name.into();
    }
    three[0].check.kind = CheckKind::Http(HttpCheck {
        method: "GET".to_owned(),
        path: path.to_owned(),
        port: 0,
        expect: Vec::new(),
        authorization: Some(Secret::new(authorization)),
    });
    three[1].check.kind = CheckKind::Command(command(argv.iter().map(|&arg| arg.to_owned()).collect()));
    three[2].check.kind = CheckKind::Agent(AgentCheck { port: 1, send: authorization.to_owned() });
    pool.name = name.into();
    pool.postgres = None;
    pool.failover.failback_after = Duration::ZERO;
    pool.backends = three.to_vec();
    pool
}

/// Two plans whose secrets sort in the other order than they come.
fn two_plans() -> [Event; 2] {
    let one = secretive("p", "zz-hunter2", "/up?token=zz-hunter3", &["zz-check", "zz-hunter4"]);
    let two = secretive("q", "aa-hunter2", "/up?token=aa-hunter3", &["aa-check", "aa-hunter4"]);
    let drain = Duration::from_secs(1);
    [replaced(plan(drain, vec![one.clone(), two.clone()])), replaced(plan(drain, vec![two, one]))]
}

#[test]
fn no_secret_is_in_a_recording() {
    let mut scribe = Scribe::default();
    let mut authorizations = Vec::new();
    for event in two_plans() {
        let line = scribe.line(MonoTime::ZERO, &event, &[]).unwrap();
        assert!(!line.contains("hunter") && !line.contains("-check"), "{line}");
        assert!(line.contains("/up?secret "), "what is no secret is there: {line}");
        let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else { panic!("{line}") };
        let Event::PlanReplaced { plan, .. } = turn.event else { panic!("{line}") };
        authorizations.push(plan.pools.values().map(|pool| pool.backends[0].check.kind.clone()).collect::<Vec<_>>());
    }
    assert_eq!(authorizations[0], authorizations[1], "the same secret has the same number in every plan");
    assert_ne!(authorizations[0][0], authorizations[0][1], "another secret has another");
}

#[test]
fn a_monitors_password_is_in_no_recording() {
    let mut pool = secretive("p", "zz-hunter2", "/up", &["zz-check"]);
    let mut rng = Rng::with_seed(1);
    let password = Some(Secret::new("zz-hunter5"));
    pool.postgres = Some(Arc::new(PostgresPlan { password, ..postgres(&mut rng) }));
    let line = Scribe::default().line(MonoTime::ZERO, &replaced(plan(Duration::ZERO, vec![pool])), &[]).unwrap();
    assert!(!line.contains("hunter"), "{line}");
}

#[test]
fn nothing_that_a_tunnels_programs_are_given_is_in_a_recording() {
    let mut rng = Rng::with_seed(1);
    let hidden = |text: &str| Text(vec![Part::Shown("zz-shown=".into()), Part::Hidden(Secret::new(text))]);
    let given = |text: &str| {
        let env = vec![("ZZ_NAME".into(), hidden(text))];
        Arc::new(ProgramPlan { argv: vec![hidden(text), hidden("zz-hunter3")], env, file: Some(hidden(text)) })
    };
    let mut plan_of = |one: &str, authorization: &str| {
        let mut pool = secretive("p", "zz-hunter2", "/up", &["zz-check"]);
        let request = HttpCheck {
            method: "GET".to_owned(),
            path: format!("/api?key={authorization}"),
            port: 0,
            expect: Vec::new(),
            authorization: Some(Secret::new(authorization)),
        };
        let sources = [
            LookupSource::Command(given(one)),
            LookupSource::Http { address: "127.0.0.1:1".parse().unwrap(), request, pointer: "/url".into() },
        ];
        for (backend, source) in pool.backends.iter_mut().zip(sources) {
            let lookup = Some(LookupPlan { source, interval: Duration::from_secs(1), timeout: Duration::from_secs(1) });
            backend.tunnel = Some(Arc::new(TunnelPlan { program: Some(given(one)), lookup, ..tunnel(&mut rng) }));
        }
        plan(Duration::ZERO, vec![pool])
    };
    let mut scribe = Scribe::default();
    let mut programs = Vec::new();
    for (one, authorization) in
        [("zz-hunter1", "zz-hunter5"), ("zz-hunter4", "zz-hunter6"), ("zz-hunter1", "zz-hunter5")]
    {
        let line = scribe.line(MonoTime::ZERO, &replaced(plan_of(one, authorization)), &[]).unwrap();
        assert!(!line.contains("hunter") && !line.contains("zz-shown") && !line.contains("ZZ_NAME"), "{line}");
        let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else { panic!("{line}") };
        let Event::PlanReplaced { plan, .. } = turn.event else { panic!("{line}") };
        programs.push(plan.pools["p"].backends[0].tunnel.as_ref().unwrap().program.clone());
    }
    assert_eq!(programs[0], programs[2], "the same program is the same still");
    assert_ne!(programs[0], programs[1], "another one is another");
}

#[test]
fn what_secrets_say_decides_nothing() {
    let (mut core, mut scribe, mut replay) = (Controller::new(5), Scribe::default(), Replay::new(5));
    let mut events = VecDeque::from(two_plans());
    let mut told = 0;
    for turn in 0..60 {
        let at = MonoTime::ZERO + Duration::from_millis(50) * turn;
        let event = events.pop_front().unwrap_or(Event::Tick);
        let mut commands = Vec::new();
        core.handle(at, event.clone(), &mut commands);
        let line = scribe.line(at, &event, &commands).unwrap();
        let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else { panic!("{line}") };
        assert_eq!(replay.turn(turn.at, turn.event), turn.commands, "{line}");
        // What is asked with a `zz` is well, everything else is not: so it matters which target is which.
        for command in commands {
            if let Command::StartProbe { target, probe, spec } = &command {
                let secret = match &spec.kind {
                    CheckKind::Http(http) => http.path.as_str(),
                    CheckKind::Command(command) => command.argv[0].expose(),
                    CheckKind::Agent(agent) => agent.send.as_str(),
                    other => panic!("{other:?}"),
                };
                let passed = ProbeOutcome::Passed { latency: Duration::ZERO, advice: Advice::default() };
                let error = ProbeError::Dial(DialError::Refused);
                let failed = ProbeOutcome::Failed { error, detail: String::new() };
                let outcome = if secret.contains("zz") { passed } else { failed };
                events.push_back(Event::ProbeFinished { target: *target, probe: *probe, outcome });
            }
            told += usize::from(matches!(command, Command::Report(_)));
        }
    }
    assert!(told >= 6, "of six backends, each has a verdict: {told}");
}

#[test]
fn a_bad_line_says_what_is_wrong_and_where() {
    for (line, words) in [
        (r#"{"at":1,"event":"tock"}"#, &["tock", "column"][..]),
        (r#"{"at":1}"#, &["missing field `event`"]),
        (r#"{"at":-1,"event":"tick"}"#, &["-1", "column 8"]),
        (r#"{"at":1,"event":{"dial_failed":{"backend":1,"epoch":0,"error":"tired"}}}"#, &["tired", "refused"]),
        // What was told and decided once, and is no more.
        (
            r#"{"at":1,"event":{"dial_failed":{"backend":1,"epoch":0,"error":"unanswered"}}}"#,
            &["unanswered", "refused"],
        ),
        (
            r#"{"at":1,"event":"tick","commands":[{"fence":{"backend":1,"epoch":1,"reason":"demoted","which":"writing"}}]}"#,
            &["unknown variant `writing`", "`all` or `opening`", "column"],
        ),
        ("\u{fffd}", &["column 1"]),
        ("", &["column 0"]),
    ] {
        let error = Line::read(line.as_bytes()).unwrap_err();
        words.iter().for_each(|word| assert!(error.contains(word), "no {word} in {error}"));
        assert!(!error.contains(" at line "), "{error}");
    }
    let end = Line::end("enough").unwrap();
    assert_eq!(Line::read(end.as_bytes()), Ok(Line::End("enough".to_owned())));
}

#[test]
fn another_format_is_refused_by_its_number() {
    let header = Header { format: FORMAT, changeover: "1.2.3".to_owned(), seed: u64::MAX, started: "x".to_owned() };
    let line = header.line().unwrap();
    assert_eq!(Header::read(line.as_bytes()), Ok(header));
    let error = Header::read(line.replace("\"recording\":1", "\"recording\":2").as_bytes()).unwrap_err();
    assert!(error.contains("format 2") && error.contains("1.2.3"), "{error}");
    assert!(Header::read(b"{}").unwrap_err().contains("recording"));
}

#[test]
fn whether_a_pool_is_paused_is_compared() {
    let pool = secretive("p", "a", "/up", &["b"]);
    let (mut scribe, mut core, mut paused) = (Scribe::default(), Controller::new(1), Vec::new());
    let pause = Order::Pause { pool: "p".into(), until: None };
    let ordered = |order| Event::Ordered { actor: Actor::from("ops"), order };
    let begin = replaced(plan(Duration::ZERO, vec![pool]));
    for event in [begin, ordered(pause), ordered(Order::Resume { pool: "p".into() })] {
        let mut commands = Vec::new();
        core.handle(MonoTime::ZERO, event.clone(), &mut commands);
        let Ok(Line::Turn(turn)) = Line::read(scribe.line(MonoTime::ZERO, &event, &commands).unwrap().as_bytes())
        else {
            panic!("no turn")
        };
        let shares = turn.commands.into_iter().filter_map(|decision| match decision {
            Decision::Publish { mut pools, .. } => pools.remove("p").flatten(),
            _ => None,
        });
        paused.extend(shares.map(|share| (share.paused, share.tiers.len())));
    }
    // Before any verdict the pause is all that differs.
    assert_eq!(paused, [(false, 0), (true, 0), (false, 0)]);
}

#[test]
fn which_sessions_a_fence_is_for_is_written_unless_it_is_for_all() {
    let (backend, epoch, reason) = (BackendId(1), Epoch(2), OutReason::Demoted);
    for (which, is_written) in [(Sessions::All, false), (Sessions::Opening, true)] {
        let fence = Command::FenceSessions { backend, epoch, reason, which };
        let line = Scribe::default().line(MonoTime::ZERO, &Event::Tick, &[fence]).unwrap();
        assert_eq!(line.contains("which"), is_written, "{line}");
        let Ok(Line::Turn(turn)) = Line::read(line.as_bytes()) else { panic!("no turn: {line}") };
        assert_eq!(turn.commands, [Decision::Fence { backend, epoch, reason, which }]);
    }
}
