//! Who may what. One layer stands before all routes: it finds the route in the one table of them (`table`), who asks
//! (`identity`), whether they may, and how often (`rate`). What is not in the table answers nobody, and whoever may not
//! change something is not read to the end.
//!
//! What came of each change is written down by whoever made it (`super::audit`); what was refused before that, or without
//! a word by a handler, is written down here (`trail`).

mod guesses;
mod identity;
mod jwt;
mod neighbour;
mod rate;
mod table;
mod tokens;
mod trail;

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{ALLOW, AUTHORIZATION, RETRY_AFTER};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::config::credentials::tls_server;
use crate::model::{Actor, AdminPlan, PoolName, Rate};
use crate::settings::Settings;
use crate::sys::Clock;

use super::Admin;
use super::host::{is_misdirected, is_of_other_page};
use super::problem::{Code, Problem, Refused};

use guesses::Guesses;
pub(super) use identity::{Identity, Peer};
use jwt::Jwt;
pub(super) use neighbour::Ends;
use neighbour::Looks;
use rate::{Key, Limits, Refusals, Whose};
use table::{Found, find};
pub use table::{Need, ROUTES, Route};
use tokens::Tokens;
use trail::Names;

/// From one look at what a subscriber presented to the next.
const STANDING_EVERY: Duration = Duration::from_secs(5);

/// Why credentials cannot be used, although they were found to be right when they were read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("[admin.{table}] cannot be used: its key {why}")]
pub struct CredentialsError {
    table: &'static str,
    why: String,
}

/// By what callers prove who they are, and how often they may change something.
pub struct Credentials {
    tokens: Tokens,
    jwt: Option<Jwt>,
    tls: Option<Arc<ServerConfig>>,
    rate: Option<Rate>,
}

impl Credentials {
    /// Those of `plan`.
    ///
    /// # Errors
    ///
    /// [`CredentialsError`].
    pub fn of(plan: &AdminPlan) -> Result<Self, CredentialsError> {
        let unusable = |table: &'static str| move |why: String| CredentialsError { table, why };
        let jwt = plan.jwt.as_ref().map(Jwt::new).transpose().map_err(|why| unusable("jwt")(why.to_owned()))?;
        let tls = plan.tls.as_ref().map(|tls| tls_server(&tls.chain, &tls.private_key)).transpose();
        let tls = tls.map_err(|fault| unusable("tls")(format!("{fault:?}")))?;
        Ok(Self { tokens: Tokens::new(&plan.tokens), jwt, tls, rate: plan.rate })
    }

    /// Whether nobody could prove anything.
    const fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.jwt.is_none()
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[credentials]")
    }
}

/// What decides who may what. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Access {
    credentials: watch::Sender<Arc<Credentials>>,
    counts: Arc<Mutex<Counts>>,
    looks: Looks,
    clock: Clock,
}

struct Counts {
    limits: Limits,
    guesses: Guesses,
    refusals: Refusals,
}

impl std::fmt::Debug for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[counts]")
    }
}

/// A request that goes no further.
struct Refusal {
    problem: Problem,
    /// What there is to say of this case.
    detail: Option<String>,
    /// Whole seconds.
    retry_after: Option<u64>,
    actor: Actor,
}

impl Refusal {
    const fn new(problem: Problem, actor: Actor) -> Self {
        Self { problem, detail: None, retry_after: None, actor }
    }

    /// For too many calls, or too many wrong credentials, which is `what`.
    fn limited(what: &str, seconds: u64, actor: Actor) -> Self {
        let detail = format!("{what}; try again in {seconds} s");
        Self { detail: Some(detail), retry_after: Some(seconds), ..Self::new(Problem::RateLimited, actor) }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = match self.detail {
            Some(detail) => Refused::because(self.problem, detail).into_response(),
            None => self.problem.into_response(),
        };
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl Access {
    /// By `credentials`.
    #[must_use]
    pub fn new(credentials: Credentials, clock: Clock) -> Self {
        let limits = Limits::new(credentials.rate, clock);
        let counts = Counts { limits, guesses: Guesses::default(), refusals: Refusals::default() };
        let (credentials, counts) = (watch::Sender::new(Arc::new(credentials)), Arc::new(Mutex::new(counts)));
        Self { credentials, counts, looks: Looks::new(), clock }
    }

    /// From now on by these, also on connections that are open. Whoever has used up what they may begins anew only if the
    /// limit is another one.
    pub fn replace(&self, credentials: Credentials) {
        self.counted(|counts| {
            if counts.limits.rate() != credentials.rate {
                counts.limits = Limits::new(credentials.rate, self.clock);
                counts.guesses = Guesses::default();
            }
        });
        self.credentials.send_replace(Arc::new(credentials));
    }

    /// Writes into the history of `settings` how many refusals were only counted so far: for the end of the daemon, which
    /// may come before that would be told.
    pub fn tell_refusals(&self, settings: &Settings) {
        for whose in Whose::ALL {
            trail::tell_counted(self, settings, whose);
        }
    }

    /// What TLS is served with, if it is.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.credentials.borrow().tls.clone()
    }

    fn counted<T>(&self, act: impl FnOnce(&mut Counts) -> T) -> T {
        act(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `peer`, without the rights of its host if it would have any by them alone and is this very process.
    async fn settled(&self, peer: Peer, parts: &Parts, route: Option<&Route>) -> Peer {
        let depends =
            route.is_some_and(|route| route.need.role().is_some()) && !parts.headers.contains_key(AUTHORIZATION);
        match parts.extensions.get::<Ends>() {
            Some(ends) if depends && ends.are_ours(&self.looks).await => peer.without_rights(),
            Some(_) | None => peer,
        }
    }

    /// Who `identified` is, unless it is nobody, or too many from there were nobody.
    fn admit(
        &self,
        identified: Result<Identity, String>,
        peer: &Peer,
        headers: &HeaderMap,
    ) -> Result<Identity, Refusal> {
        const TOO_MANY: &str = "too many wrong credentials came from this address";
        let (network, now) = (peer.network(), self.clock.now());
        match identified {
            Ok(identity) if !headers.contains_key(AUTHORIZATION) => Ok(identity),
            Ok(identity) => match self.counted(|counts| counts.guesses.right(network, &identity.actor, now)) {
                Ok(()) => Ok(identity),
                Err(seconds) => Err(Refusal::limited(TOO_MANY, seconds, identity.actor)),
            },
            Err(why) => {
                tracing::debug!(address = peer.address(), why, "a credential was not taken");
                match self.counted(|Counts { guesses, limits, .. }| guesses.wrong(network, limits, now)) {
                    Ok(()) => Err(Refusal::new(Problem::NotAuthenticated, unknown())),
                    Err(seconds) => Err(Refusal::limited(TOO_MANY, seconds, unknown())),
                }
            }
        }
    }

    /// Who sends a request for `route`, of which `pool` is a part, if they may; none is for no route.
    fn judge(
        &self,
        peer: &Peer,
        parts: &Parts,
        route: Option<&Route>,
        pool: Option<&PoolName>,
    ) -> Result<Identity, Refusal> {
        let credentials = Arc::clone(&self.credentials.borrow());
        let identified = identity::identify(&credentials, peer, &parts.headers);
        if is_misdirected(peer, parts) {
            // Whatever a page presents there counts neither for nor against anybody.
            let actor = identified.map_or_else(|_| unknown(), |identity| identity.actor);
            return Err(Refusal::new(Problem::MisdirectedRequest, actor));
        }
        let identity = self.admit(identified, peer, &parts.headers)?;
        let Some(route) = route else { return Ok(identity) };
        let refusal = |problem| Refusal::new(problem, identity.actor.clone());
        if route.need.is_change() && is_of_other_page(&parts.headers) {
            return Err(refusal(Problem::OtherPage));
        }
        if identity.role < route.need.role() {
            return Err(match (identity.is_proved, credentials.is_empty()) {
                (true, _) => {
                    let [wanted, has] =
                        [route.need.role(), identity.role].map(|role| role.map_or("none", |role| role.label()));
                    let detail = format!("this takes the role {wanted}, and the caller's is {has}");
                    Refusal { detail: Some(detail), ..refusal(Problem::NotAuthorized) }
                }
                (false, false) => refusal(Problem::NotAuthenticated),
                (false, true) => refusal(Problem::NobodyMay),
            });
        }
        let is_all = route.need == Need::ViewAll && identity.pools.is_some();
        if is_all || (route.path.contains("{pool}") && !identity.sees(pool)) {
            return Err(refusal(Problem::NotOwner));
        }
        if route.need.is_change()
            && let Err(seconds) = self.counted(|counts| counts.limits.take(Key::Actor(identity.actor.clone())))
        {
            return Err(Refusal::limited("the caller has made too many changes", seconds, identity.actor));
        }
        Ok(identity)
    }
}

/// Who presents what nobody has.
fn unknown() -> Actor {
    Actor::from("unknown")
}

/// Whether whoever asked for something that lasts may still have it.
#[derive(Debug)]
pub(super) struct Standing {
    credentials: watch::Receiver<Arc<Credentials>>,
    peer: Peer,
    /// What was presented.
    headers: HeaderMap,
    identity: Identity,
    /// When it is looked at again, for what was presented may expire.
    due: Pin<Box<Sleep>>,
}

impl Standing {
    /// That of `identity`, who came from `peer` with `headers`.
    pub(super) fn new(access: &Access, peer: Peer, headers: &HeaderMap, identity: Identity) -> Self {
        let presented = headers.get_all(AUTHORIZATION).iter().map(|value| (AUTHORIZATION, value.clone()));
        let (credentials, headers) = (access.credentials.subscribe(), presented.collect());
        Self { credentials, peer, headers, identity, due: Box::pin(sleep(STANDING_EVERY)) }
    }

    /// Resolves when it is lost: the credentials are others, or have expired. Cancel-safe.
    pub(super) async fn lost(&mut self) {
        loop {
            // Cancel-safety: a change is there until it was looked at, and the time stands.
            tokio::select! {
                Ok(()) = self.credentials.changed() => {}
                () = &mut self.due => {}
            }
            self.due = Box::pin(sleep(STANDING_EVERY));
            let credentials = Arc::clone(&self.credentials.borrow_and_update());
            if identity::identify(&credentials, &self.peer, &self.headers).as_ref() != Ok(&self.identity) {
                return;
            }
        }
    }
}

/// Lets a request through to its route if it may go there, with the [`Identity`] of who sends it.
pub(super) async fn guard(State(admin): State<Admin>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Some(peer) = parts.extensions.get::<Peer>().copied() else { return Problem::Internal.into_response() };
    let path = parts.extensions.get::<MatchedPath>().cloned();
    let found = path.as_ref().map_or(Found::Nothing, |path| find(parts.method.as_str(), path.as_str()));
    let route = match found {
        Found::Route(route) => Some(route),
        Found::OtherMethod | Found::Nothing => None,
    };
    let peer = admin.access.settled(peer, &parts, route).await;
    parts.extensions.insert(peer);
    let names = Names::of(&mut parts).await;
    let judged = admin.access.judge(&peer, &parts, route, names.pool.as_ref());
    let refused = |actor: &Actor, code: &str| {
        if let Some(route) = route.filter(|route| route.need.is_change()) {
            trail::note(&admin, route, actor, &peer, &names, code);
        }
    };
    let identity = match judged {
        Ok(identity) => identity,
        Err(refusal) => {
            refused(&refusal.actor, refusal.problem.code());
            return refusal.into_response();
        }
    };
    if route.is_none() {
        return match (found, path) {
            (Found::OtherMethod, Some(path)) => {
                ([(ALLOW, table::methods(path.as_str()))], Problem::MethodNotAllowed).into_response()
            }
            _ => Problem::NotFound.into_response(),
        };
    }
    let actor = identity.actor.clone();
    parts.extensions.insert(identity);
    let response = next.run(Request::from_parts(parts, body)).await;
    // What a handler has written down itself does not carry its code.
    if let Some(Code(code)) = response.extensions().get::<Code>() {
        refused(&actor, code);
    }
    response
}
