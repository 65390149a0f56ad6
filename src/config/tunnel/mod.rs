//! `[pools.NAME.backends.NAME.tunnel]`: how a backend is reached that cannot be dialled as it is.
//!
//! What a provider gives is filled in here, so that whoever runs a tunnel knows none of them: a plan has a command line,
//! what goes with it, and where the port comes in. Secrets go to a program by its environment or by a file in memory;
//! a command line, which all users of the host can read, never has one.

mod literal;
mod lookup;
mod needs;
mod options;
mod program;
mod provider;
mod shown;
mod template;
mod words;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Address, Attach, BackendName, BackendPlan, CheckPlan, LookupPlan, LookupSource, PoolName, Text, TunnelPlan, Via,
    spoken,
};

use super::check;
use super::keys;
use super::read::Reader;
use super::view::View;
use super::wording::quote;

pub use needs::{TunnelNeeds, VersionNeed};
pub(super) use provider::{Providers, TEXTS_MAX, take_in};
pub use shown::explain_tunnel;
pub(super) use shown::{note, way};

use program::Around;
use provider::{COMMAND, Provider};
use template::Known;

/// How what stands for the address of a backend ends until that is looked up; no name ends so (RFC 6761, 6.4).
pub(crate) const LOOKED_UP: &str = "looked-up.invalid:1";
/// How much of a backend's name is put before it: what a label of a host name can have.
const LABEL_MAX: usize = 63;

/// A tunnel, as far as it is known without the backend's check.
pub(super) struct Draft {
    /// What is wrong is said; then there is none.
    plan: Option<TunnelPlan>,
    /// None takes the check's threshold twice.
    restart_after: Option<u32>,
    /// The backend's.
    pub(super) address: Option<Address>,
    /// Where that stands.
    pub(super) place: Range<usize>,
}

impl Draft {
    /// The plan of a backend that is checked in this way.
    pub(super) fn finish(self, check: &CheckPlan) -> Option<TunnelPlan> {
        let restart_after = self.restart_after.unwrap_or_else(|| check.unhealthy_threshold.saturating_mul(2));
        self.plan.map(|plan| TunnelPlan { restart_after, ..plan })
    }

    /// Says what of its backend's check does not go through it.
    pub(super) fn refuse_check(&self, reader: &mut Reader<'_>, backend: &View<'_>, check: &check::Draft) {
        let Some(plan) = &self.plan else { return };
        let has_own = backend.node(&keys::BACKEND_CHECK).is_some();
        let place = if has_own { backend.place(&keys::BACKEND_CHECK) } else { check.place() };
        if let Some(port) = check.own_port().filter(|_| plan.via.attach != Attach::Address) {
            let message = format!(
                "the check asks at port {port}, and a tunnel leads to its `target` alone; leave `port` out, \
                 or give backend {} a check without one",
                quote(plan.via.backend.as_str())
            );
            reader.faults.wrong(place.clone(), message);
        }
        let is_known = plan.via.attach == Attach::Address && plan.lookup.is_none();
        if check.tells_address() && !is_known {
            let message = format!(
                "backend {} is behind a tunnel, and where the check's `command` is told to go leads nowhere from here; \
                 leave {{host}}, {{port}} and {{address}} out, or give it another check",
                quote(plan.via.backend.as_str())
            );
            reader.faults.wrong(place, message);
        }
    }
}

/// Whether a backend is dialled at an address, be it looked up: not by a port of a tunnel or a proxy, or a program.
pub(super) fn is_by_address(backend: &BackendPlan) -> bool {
    backend.tunnel.as_ref().is_none_or(|plan| plan.via.attach == Attach::Address)
}

/// Whether it is dialled at the address that its plan has.
pub(super) fn is_dialled(backend: &BackendPlan) -> bool {
    is_by_address(backend) && backend.tunnel.as_ref().is_none_or(|plan| plan.lookup.is_none())
}

/// Whether its address is on the loopback of somebody else's host, or is not known at all.
pub(super) fn is_far_loopback(backend: &BackendPlan) -> bool {
    let is_loopback = match &backend.address {
        Address::Ip(addr) => addr.ip().to_canonical().is_loopback(),
        Address::Name { host, .. } => host.eq_ignore_ascii_case("localhost"),
        Address::Unix(_) => false,
    };
    let is_looked_up = backend.tunnel.as_ref().is_some_and(|plan| plan.lookup.is_some());
    is_looked_up || (is_loopback && !is_dialled(backend))
}

/// The tunnel of a backend; none if it has none.
pub(super) fn of_backend(reader: &mut Reader<'_>, pool: &str, name: &str, backend: &View<'_>) -> Option<Draft> {
    backend.node(&keys::TUNNEL)?;
    let view = reader.table(backend, &keys::TUNNEL);
    let (before, needs_before) = (reader.faults.count(), reader.needs.len());
    let provider = provider::find(reader, &view);
    let given: Option<Attach> = reader.given(&view, &keys::ATTACH);
    let is_wrong = given.is_none() && view.node(&keys::ATTACH).is_some();
    let attach = given.or_else(|| provider.as_ref()?.attach.first().copied()).filter(|_| !is_wrong);
    let restart_after = reader.given(&view, &keys::RESTART_AFTER);
    let said = Said::read(reader, &view, backend);
    let (mut address, mut plan) = (None, None);
    if let (Some(provider), Some(attach)) = (provider, attach) {
        refuse_foreign(reader, &view, &provider, attach);
        let way = Way { provider: &provider, attach };
        refuse_unplaced(reader, &view, backend, &said, way);
        plan = said.plan(reader, (pool, name), &view, way);
        address = plan.as_ref().and_then(|(_, address)| address.clone());
    }
    let has_address = backend.node(&keys::ADDRESS).is_some();
    let place = if has_address { backend.place(&keys::ADDRESS) } else { view.place(&keys::TUNNEL_TARGET) };
    let is_right = reader.faults.count() == before;
    if !is_right {
        reader.needs.truncate(needs_before);
        // What is mistyped, or was not looked at, may be a secret.
        let unread = plan.is_none().then_some([&keys::OPTIONS, &keys::LOOKUP]);
        let mixed = [&keys::TUNNEL_COMMAND, &keys::TUNNEL_ENV, &keys::TUNNEL_FILE].into_iter();
        let all = mixed.chain(unread.into_iter().flatten());
        all.filter_map(|key| view.node(key)).for_each(|node| reader.hide(node));
    }
    let plan = plan.map(|(plan, _)| plan).filter(|_| is_right);
    Some(Draft { plan, restart_after, address: address.filter(|_| is_right), place })
}

/// By what a tunnel leads to its target.
#[derive(Debug, Clone, Copy)]
struct Way<'a> {
    provider: &'a Provider,
    attach: Attach,
}

/// What is given and is not for this provider, or not for what it is to give.
fn refuse_foreign(reader: &mut Reader<'_>, view: &View<'_>, provider: &Provider, attach: Attach) {
    let name = &provider.name;
    if !provider.attach.contains(&attach) {
        let known = super::key::listed(provider.attach.iter().map(|attach| attach.label())).replace(" or ", " and ");
        let message = format!("`attach`: {name} does not give \"{attach}\"; it gives {known}");
        reader.faults.wrong(view.place(&keys::ATTACH), message);
    }
    if name != COMMAND {
        for key in [&keys::TUNNEL_COMMAND, &keys::TUNNEL_FILE] {
            let why = format!("{name} has its own; leave it out, or write provider = \"command\"");
            words::refuse_given(reader, view, key, &why);
        }
    }
    match attach {
        Attach::Socks5 | Attach::HttpConnect => {}
        Attach::Listen | Attach::Stdio | Attach::Address => {
            let why = format!(
                "with attach = \"{attach}\" there is none; leave it out, or write \"socks5\" or \"http-connect\""
            );
            words::refuse_given(reader, view, &keys::PROXY, &why);
        }
    }
    if attach != Attach::Address {
        let why = format!("with attach = \"{attach}\" the way is always the same; leave it out, or write \"address\"");
        words::refuse_given(reader, view, &keys::LOOKUP, &why);
    }
}

/// Says what is wrong with where it leads.
fn refuse_unplaced(reader: &mut Reader<'_>, view: &View<'_>, backend: &View<'_>, said: &Said, way: Way<'_>) {
    let key = &keys::TUNNEL_TARGET;
    if matches!(said.target, Some(Address::Unix(_))) {
        let message = "`target`: a Unix socket is not reached through a tunnel; write \"HOST:PORT\"".to_owned();
        reader.faults.wrong(view.place(key), message);
    }
    let has_target = view.node(key).is_some();
    let has_address = backend.node(&keys::ADDRESS).is_some();
    if way.attach != Attach::Address {
        let why = "what a tunnel leads to is its `target`; leave `address` out";
        words::refuse_given(reader, backend, &keys::ADDRESS, why);
        if !has_target {
            let message = format!(
                "[{}] has no `target`; write target = {}, as it is called at the far side",
                view.label,
                key.literal()
            );
            reader.faults.lacking(view.span.clone(), key.name, message);
        }
        return;
    }
    let has_lookup = view.node(&keys::LOOKUP).is_some();
    if has_lookup {
        let why = "it is found out by `lookup`; leave one of the two out";
        words::refuse_given(reader, backend, &keys::ADDRESS, why);
    } else if !has_target && !has_address && way.provider.lookup.is_none() {
        let message = format!(
            "[{}] leads nowhere; write `address` for the backend, or here `target` or `lookup`, where {} is found",
            view.label, way.provider.name
        );
        reader.faults.lacking(view.span.clone(), key.name, message);
    }
}

/// What a tunnel says, but for its provider's options.
struct Said {
    target: Option<Address>,
    /// The backend's own.
    address: Option<Address>,
    proxy: Option<Address>,
    ready: Option<String>,
    fatal: Vec<String>,
    ready_timeout: Duration,
    retry: [Duration; 3],
    stop_grace: Duration,
}

impl Said {
    fn read(reader: &mut Reader<'_>, view: &View<'_>, backend: &View<'_>) -> Self {
        let retry = [&keys::RETRY_INITIAL, &keys::RETRY_MAX, &keys::RETRY_RESET].map(|key| reader.get(view, key));
        let [initial, max, _] = retry;
        if initial > max {
            let key = if view.node(&keys::RETRY_INITIAL).is_some() { &keys::RETRY_INITIAL } else { &keys::RETRY_MAX };
            let (initial, max) = (spoken(initial), spoken(max));
            let message = format!("`{}`: `retry_initial` ({initial}) is more than `retry_max` ({max})", key.name);
            reader.faults.wrong(view.place(key), message);
        }
        Self {
            target: reader.given(view, &keys::TUNNEL_TARGET),
            address: reader.given(backend, &keys::ADDRESS),
            proxy: reader.given(view, &keys::PROXY),
            ready: words::line(reader, view, &keys::READY),
            fatal: words::fatal(reader, view, &keys::FATAL),
            ready_timeout: reader.get(view, &keys::READY_TIMEOUT),
            stop_grace: reader.get(view, &keys::STOP_GRACE),
            retry,
        }
    }

    /// The plan and the backend's address, as far as they can be made; what is wrong is said.
    fn plan(
        self,
        reader: &mut Reader<'_>,
        (pool, backend): (&str, &str),
        view: &View<'_>,
        way: Way<'_>,
    ) -> Option<(TunnelPlan, Option<Address>)> {
        let Way { provider, attach } = way;
        let is_run = self.proxy.is_none() && attach != Attach::Address;
        let settings = options::read(reader, view, provider, attach, is_run);
        let known = Known { target: self.target.as_ref(), settings: &settings.all };
        let env = words::over(&provider.env, words::env(reader, view, &keys::TUNNEL_ENV, &[]));
        let env = words::fill_env(&env, known);
        let lookup = self.lookup(reader, view, provider, known, &env);
        let program =
            program::of(reader, view, way, &Around { proxy: self.proxy.is_some(), settings: &settings, known, env });
        let is_asked = matches!(lookup, Some(LookupPlan { source: LookupSource::Command(_), .. }));
        if program.is_none() {
            program::refuse_idle(reader, view, is_asked);
        }
        let found = self.address.or_else(|| self.target.clone());
        let found = if lookup.is_some() { self.target.clone() } else { found };
        let address = found.or_else(|| looked_up(backend))?;
        let target = self.target.clone().unwrap_or_else(|| address.clone());
        let via = Via { pool: PoolName::from(pool), backend: BackendName::from(backend), attach, target };
        let need = needs::of(&via, provider, known, program.as_ref(), is_asked);
        reader.needs.push(need);
        // What is started for each connection is ready when it is started.
        let says = self.ready.or_else(|| provider.ready.clone());
        let says = says.filter(|_| program.is_some() && attach != Attach::Stdio);
        let fatal = provider.fatal.iter().chain(&self.fatal).map(|text| Arc::from(text.as_str())).collect();
        let [retry_initial, retry_max, retry_reset] = self.retry;
        let plan = TunnelPlan {
            via: Arc::new(via),
            provider: Arc::from(provider.name.as_str()),
            program: program.map(Arc::new),
            proxy: self.proxy,
            lookup,
            ready: says.map(Arc::from),
            ready_timeout: self.ready_timeout,
            fatal,
            restart_after: 0,
            retry_initial,
            retry_max,
            retry_reset,
            stop_grace: self.stop_grace,
        };
        Some((plan, Some(address)))
    }

    /// How the address is found out: as the tunnel says, or else its provider, if nothing says what it is.
    fn lookup(
        &self,
        reader: &mut Reader<'_>,
        view: &View<'_>,
        provider: &Provider,
        known: Known<'_>,
        env: &[(Arc<str>, Text)],
    ) -> Option<LookupPlan> {
        let own = lookup::read(reader, view, &keys::LOOKUP, &[]);
        let is_known = self.target.is_some() || self.address.is_some();
        let usual = provider.lookup.as_ref().filter(|_| !is_known && view.node(&keys::LOOKUP).is_none());
        own.as_ref().or(usual)?.plan(reader, known, env)
    }
}

/// Whether an address is what stands for one that is looked up.
pub(in crate::config) fn is_looked_up(address: &Address) -> bool {
    address.to_string().ends_with(LOOKED_UP)
}

/// What stands for the address of `backend` until it is looked up: another one for each, for they lead to different places.
fn looked_up(backend: &str) -> Option<Address> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let label: String = backend.chars().take(LABEL_MAX).map(plain).collect();
    let label = label.trim_matches('-');
    format!("{label}{}{LOOKED_UP}", if label.is_empty() { "" } else { "." }).parse().ok()
}
