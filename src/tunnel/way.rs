//! What a run waits for until it is open, and where it leads then.

use super::ports::at;
use crate::model::{Address, Attach, TunnelPlan};

/// The way of a run.
pub(super) struct Way {
    /// Where it leads, once that is known.
    pub(super) at: Option<Address>,
    /// Whether whatever opens it says that it is open.
    pub(super) is_ready: bool,
    /// The port to watch until then.
    pub(super) watched: Option<u16>,
    pub(super) is_open: bool,
}

impl Way {
    /// That of a run by `plan`, whose program opens `port` if it opens one that we choose.
    pub(super) fn of(plan: &TunnelPlan, port: Option<u16>) -> Self {
        let TunnelPlan { via, program, proxy, lookup, ready, .. } = plan;
        let at = match via.attach {
            Attach::Listen | Attach::Socks5 | Attach::HttpConnect => port.map(at).or_else(|| proxy.clone()),
            Attach::Address if lookup.is_some() => None,
            Attach::Address | Attach::Stdio => Some(via.target.clone()),
        };
        let is_told = ready.is_some() && program.is_some() && via.attach != Attach::Stdio;
        let watched = port.filter(|_| !is_told);
        Self { at, is_ready: !is_told && watched.is_none(), watched, is_open: false }
    }

    /// Whether there is nothing that would ever say where it leads.
    pub(super) fn leads_nowhere(&self, plan: &TunnelPlan) -> bool {
        self.at.is_none() && plan.lookup.is_none()
    }
}
