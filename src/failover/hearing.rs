//! What the controller hears of a backend from others than its own probes, and what it does about it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::model::{BackendId, BackendName, DialError, Epoch, MonoTime, PoolName, PushedHealth, SessionPath, TargetId};

use super::change::{Change, Transition};
use super::controller::{Controller, Turn};
use super::event::Command;
use super::member::Member;
use super::passive::Hearsay;
use super::pool::{Effects, Pool};
use super::schedule::Again;

/// A shorter stall is excused like any other, and not told.
const STALL_TOLD: Duration = Duration::from_millis(100);

impl Controller {
    /// A client could not connect.
    pub(super) fn dial_failed(
        &mut self,
        now: MonoTime,
        backend: BackendId,
        epoch: Epoch,
        error: DialError,
        turn: &mut Turn,
    ) {
        let Some(member) = self.present(backend, epoch).filter(|_| !error.is_own()) else { return };
        let target = member.target;
        if member.health.suspect(now, error) {
            self.schedule.suspect(now, target);
        }
        self.hear(now, backend, Hearsay::Dial, turn);
    }

    /// Sessions ended before the backend answered.
    pub(super) fn ended_early(
        &mut self,
        now: MonoTime,
        backend: BackendId,
        epoch: Epoch,
        sessions: u32,
        answered: bool,
        turn: &mut Turn,
    ) {
        let Some(member) = self.present(backend, epoch).filter(|_| sessions > 0) else { return };
        let (target, knock) = (member.target, lets_us_in(member));
        if member.health.stalled(now) {
            self.schedule.suspect(now, target);
        }
        turn.watches.extend(knock.then_some(Command::Knock { backend }));
        self.hear(now, backend, Hearsay::Ended { sessions, answered }, turn);
    }

    /// Bytes that sessions have sent are not acknowledged.
    pub(super) fn data_stalled(&mut self, now: MonoTime, backend: BackendId, epoch: Epoch, silent: Duration) {
        let Some(member) = self.present(backend, epoch) else { return };
        let target = member.target;
        let silent = u64::try_from(silent.as_nanos()).unwrap_or(u64::MAX);
        if member.health.stalled(MonoTime::from_nanos(now.as_nanos().saturating_sub(silent))) {
            self.schedule.suspect(now, target);
        }
    }

    /// We did not run ourselves: what seemed to be evidence meanwhile is none.
    pub(super) fn was_stalled(&mut self, now: MonoTime, since: MonoTime, turn: &mut Turn) {
        let probes = self.schedule.start_anew(now);
        for pool in self.pools.values_mut() {
            if pool.excuse_tunnels(now.since(since)) | pool.excuse_lags(now) {
                turn.touched.insert(pool.plan.name.clone());
            }
            for member in &mut pool.members {
                member.health.acquit();
                let Some(server) = member.server.as_mut().filter(|server| server.is_in_doubt()) else { continue };
                server.acquit(now);
                if !member.has_given_up() {
                    self.schedule.suspect(now, member.target);
                }
                turn.touched.insert(pool.plan.name.clone());
            }
        }
        let lasted = now.since(since);
        // One that goes on is noticed each time that something falls due.
        if lasted >= STALL_TOLD {
            let change = Change::WasStalled { lasted, probes };
            turn.reports.push(Transition { pool: None, actor: turn.actor.clone(), change });
        }
    }

    /// Takes in a verdict from outside.
    pub(super) fn push_health(
        &mut self,
        now: MonoTime,
        pool: &PoolName,
        backend: &BackendName,
        pushed: &PushedHealth,
        turn: &mut Turn,
    ) {
        let Some(id) = self.named(pool, backend) else { return };
        let Some((name, pool)) = self.home_mut(id) else { return };
        let had_given_up = pool.member(id).is_some_and(Member::has_given_up);
        let mut effects = Effects::default();
        pool.push(now, id, Some(pushed.clone()), &mut effects);
        let revived = pool.member(id).filter(|member| had_given_up && !member.has_given_up());
        let target = revived.map(|member| member.target);
        target.into_iter().for_each(|target| self.schedule.suspect(now, target));
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
    }

    /// Somebody outside could not use a backend.
    pub(super) fn report_failure(
        &mut self,
        now: MonoTime,
        pool: &PoolName,
        backend: &BackendName,
        error: &str,
        turn: &mut Turn,
    ) {
        let Some(id) = self.named(pool, backend) else { return };
        self.hear(now, id, Hearsay::Reported(error), turn);
    }

    /// Somebody outside could use it.
    pub(super) fn report_success(&mut self, pool: &PoolName, backend: &BackendName) {
        let id = self.named(pool, backend);
        let member = id.and_then(|id| self.home_mut(id)?.1.member_mut(id));
        member.into_iter().for_each(|member| member.health.passive.lower());
    }

    /// Forgets what is held against backends, and asks them anew.
    pub(super) fn reset(&mut self, now: MonoTime, pool: &PoolName, backend: Option<&BackendName>, turn: &mut Turn) {
        let of_pool = self.all_named(pool, backend);
        let Some(pool) = self.pools.get_mut(pool) else { return };
        let name = pool.plan.name.clone();
        let mut effects = Effects::default();
        of_pool.iter().for_each(|&(id, _)| pool.reset(now, id, &mut effects));
        self.schedule.ask_all(now, &of_pool.into_iter().map(|(_, target)| target).collect(), Again::Always);
        turn.touched.insert(name.clone());
        self.take(now, &name, effects, turn);
    }

    /// Asks backends now.
    pub(super) fn probe_now(&mut self, now: MonoTime, pool: &PoolName, backend: Option<&BackendName>) {
        let targets: BTreeSet<TargetId> = self.all_named(pool, backend).into_iter().map(|(_, target)| target).collect();
        self.schedule.ask_all(now, &targets, Again::IfOlder);
    }

    /// Takes in what was heard of a backend.
    fn hear(&mut self, now: MonoTime, backend: BackendId, hearsay: Hearsay<'_>, turn: &mut Turn) {
        let Some((name, pool)) = self.home_mut(backend) else { return };
        let mut effects = Effects::default();
        if pool.hear(now, backend, hearsay, &mut effects) {
            turn.touched.insert(name.clone());
        }
        self.take(now, &name, effects, turn);
    }

    /// The backend as sessions of `epoch` know it, unless it has gone on since.
    fn present(&mut self, backend: BackendId, epoch: Epoch) -> Option<&mut Member> {
        let (_, pool) = self.home_mut(backend)?;
        pool.member_mut(backend).filter(|member| member.epoch == epoch)
    }

    /// The backend of that name.
    pub(super) fn named(&self, pool: &PoolName, backend: &BackendName) -> Option<BackendId> {
        self.all_named(pool, Some(backend)).first().map(|&(id, _)| id)
    }

    /// The backend of that name, or all of the pool, with what is asked for each.
    fn all_named(&self, pool: &PoolName, backend: Option<&BackendName>) -> Vec<(BackendId, TargetId)> {
        let members = self.pools.get(pool).map_or(&[][..], Pool::members);
        let meant = members.iter().filter(|member| backend.is_none_or(|name| member.plan.name == *name));
        meant.map(|member| (member.id, member.target)).collect()
    }
}

/// Whether a server has a session of ours, and nothing is known of how those fare who have none: one that waits for its clients to
/// go answers on both paths, and turns everybody away who is new.
fn lets_us_in(member: &Member) -> bool {
    member.server.as_ref().is_some_and(|server| server.is_open() && server.path() != SessionPath::Shut)
}
