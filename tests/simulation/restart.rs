//! What outlives the process: kept after each turn as the control task keeps it, given back after a kill or a stop, and
//! held against an account of its own of what people have ordered.

use crate::*;

/// What may be expected of a restart: by orders that were accepted and by what could be seen, not by what the core remembers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    admin: BTreeMap<(PoolName, BackendName), AdminState>,
    pools: BTreeMap<PoolName, Standing>,
}

#[derive(Debug, Clone, Default)]
struct Standing {
    pinned: Option<BackendName>,
    /// When it was last asked for, and when it ends.
    pause: Option<(WallTime, Option<WallTime>)>,
    /// The same by the process' own clock: on the calendar, which people set, its end may lie elsewhere from one start to the next.
    seen: Option<Paused>,
    failovers: u64,
    recoveries: u64,
    /// The number of its last failover.
    number: u64,
}

impl Account {
    pub(crate) fn ordered(&mut self, pool: &PoolName, backend: &BackendName, state: AdminState) {
        self.admin.insert((pool.clone(), backend.clone()), state);
    }

    /// Forgets pools and backends that are not in `plan`.
    fn retain(&mut self, plan: &Plan) {
        self.admin.retain(|(pool, backend), _| has(plan, pool, backend));
        self.pools.retain(|pool, _| plan.pools.contains_key(pool));
    }
}

fn has(plan: &Plan, pool: &PoolName, backend: &BackendName) -> bool {
    plan.pools.get(pool).is_some_and(|pool| pool.backends.iter().any(|planned| planned.name == *backend))
}

/// What restarts came to over all lives: a world in which nothing of it happens tests nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    pub(crate) kills: u64,
    pub(crate) stops: u64,
    pub(crate) pins: u64,
    pub(crate) pins_lost: u64,
    pub(crate) drains: u64,
    pub(crate) pauses: u64,
    pub(crate) pauses_over: u64,
    pub(crate) first_seats: u64,
}

impl World {
    pub(crate) fn wall(&self) -> WallTime {
        self.started + Duration::from_nanos(self.now.as_nanos())
    }

    /// The control task's keeper after a turn: what the pools of `reports` remember is written if it is another.
    pub(crate) fn keep(&mut self, reports: &[Transition], replaced: bool, somebody_waits: bool) {
        if replaced {
            self.account.retain(&self.plan);
        }
        let mut pools: BTreeSet<PoolName> = reports.iter().filter_map(|told| told.pool.clone()).collect();
        if replaced {
            pools.extend(self.rows.keys().cloned());
        }
        let (mut changed, wall) = (Vec::new(), self.wall());
        for pool in pools {
            let memory = self.core.memory(&pool);
            self.look_at(&pool);
            let before = self.rows.get(&pool);
            if before.map(|row| &row.memory) == memory.as_ref() {
                continue;
            }
            let row = memory.map(|memory| {
                let since = before.filter(|row| row.memory.pause == memory.pause);
                let ends = |pause: Paused| (wall, pause.until.map(|until| wall + until.since(self.now)));
                let pause = since.map_or_else(|| memory.pause.map(ends), |row| row.pause);
                Row { memory, pause }
            });
            match row.clone() {
                Some(row) => drop(self.rows.insert(pool.clone(), row)),
                None => drop(self.rows.remove(&pool)),
            }
            changed.push((pool, row));
        }
        if somebody_waits || !changed.is_empty() {
            self.disk.record(self.now, changed, &self.account, somebody_waits);
        }
    }

    /// Takes down what can be seen of `pool`.
    fn look_at(&mut self, pool: &PoolName) {
        let Some(status) = self.core.pool_status(self.now, pool) else { return };
        let (wall, now) = (self.wall(), self.now);
        let standing = self.account.pools.entry(pool.clone()).or_default();
        if standing.seen != status.paused {
            let end = |paused: Paused| paused.until.map(|until| wall + until.since(now));
            standing.pause = status.paused.map(|paused| (wall, end(paused)));
            standing.seen = status.paused;
        }
        standing.pinned = status.pinned;
        standing.number = self.told.get(pool).map_or(0, |(number, _)| *number);
        (standing.failovers, standing.recoveries) = (status.failovers, status.recoveries);
    }

    /// What the store was told is what the core remembers, although it is told of pools that reported something alone. A
    /// downtime that ends without a verdict, with the time of a pushed one, is no news: it is kept with the next.
    pub(crate) fn check_kept(&self) {
        for pool in self.plan.pools.keys() {
            let kept = self.rows.get(pool).map(|row| row.memory.clone()).unwrap_or_default();
            let memory = self.core.memory(pool).unwrap();
            for (backend, time) in &kept.downtimes {
                assert!(memory.downtimes.get(backend) >= Some(time), "the downtime of {backend} of {pool} shrinks");
            }
            let kept = PoolMemory { downtimes: memory.downtimes.clone(), ..kept };
            assert_eq!(memory, kept, "what {pool} remembers was not kept");
        }
    }

    /// The daemon is killed or stopped, and another one starts with what the store has.
    pub(crate) fn restart(&mut self, in_good_order: bool) {
        self.check_kept();
        if in_good_order {
            self.keep_downtimes();
        }
        let image = self.disk.restart(self.now, in_good_order);
        let away = match self.rng.u8(..8) {
            0 => Duration::from_secs(self.rng.u64(60..300_000)),
            1..4 => ms(self.rng.u64(1000..20_000)),
            _ => ms(self.rng.u64(10..1000)),
        };
        self.started = self.wall() + away;
        if self.rng.u8(..8) == 0 {
            // Somebody sets the calendar.
            let step = Duration::from_secs(self.rng.u64(0..7200));
            self.started = if self.rng.bool() { self.started + step } else { self.started.before(step) };
        }
        if self.rng.u8(..8) == 0 {
            self.plan = draw_plan(&mut self.rng);
        }
        self.note(format!("restart after {away:?} with what was kept up to {}: {:?}", image.record, image.rows));
        self.restarts.stops += u64::from(in_good_order);
        self.restarts.kills += u64::from(!in_good_order);
        self.begin_process();
        self.boot(&image);
    }

    /// A stop in good order: what is out has been so until now.
    fn keep_downtimes(&mut self) {
        let mut changed = Vec::new();
        for status in self.core.pool_statuses(self.now) {
            let Some(row) = self.rows.get_mut(&status.name) else { continue };
            for backend in status.backends.iter().filter(|backend| !backend.downtime.is_zero()) {
                row.memory.downtimes.insert(backend.name.clone(), backend.downtime);
            }
            changed.push((status.name, Some(row.clone())));
        }
        self.disk.record(self.now, changed, &self.account, false);
    }

    /// The first turns of a process, as the control task has them.
    pub(crate) fn boot(&mut self, image: &Image) {
        let (wall, now) = (self.wall(), self.now);
        let given = |row: &Row| {
            let left = |(since, until): (WallTime, WallTime)| between(wall, until).min(between(since, until));
            let ends = |(since, until): (WallTime, Option<WallTime>)| Paused {
                since: now,
                until: until.map(|until| now + left((since, until))),
            };
            PoolMemory { pause: row.pause.map(ends), ..row.memory.clone() }
        };
        let pools: BTreeMap<PoolName, PoolMemory> =
            image.rows.iter().map(|(pool, row)| (pool.clone(), given(row))).collect();
        let row = |(pool, memory): (&PoolName, &PoolMemory)| {
            (pool.clone(), Row { memory: memory.clone(), pause: image.rows[pool].pause })
        };
        self.rows = pools.iter().map(row).collect();
        self.account = image.account.clone();
        self.account.retain(&self.plan);
        // Failovers are numbered on; one that was under way is not heard of again.
        let numbers = self.account.pools.iter().filter(|(_, standing)| standing.number > 0);
        self.told = numbers.map(|(pool, standing)| (pool.clone(), (standing.number, FailoverStatus::Failed))).collect();
        let early = self.turn(Event::Restored { pools });
        assert!(early.is_empty(), "news before there is a plan: {early:?}");
        let reports = self.turn(replaced(Arc::clone(&self.plan)));
        self.check_restored(image, &reports);
        self.keep(&reports, true, false);
        if self.rng.u8(..3) == 0 {
            self.first_seats();
        }
    }

    /// What people ordered is in force before the first verdict, and is no news.
    fn check_restored(&mut self, image: &Image, reports: &[Transition]) {
        let mut expected = Vec::new();
        for status in self.core.pool_statuses(self.now) {
            let standing = image.account.pools.get(&status.name).cloned().unwrap_or_default();
            let is_told = self.check_pin(&status, standing.pinned.as_ref());
            expected.extend(is_told.then(|| (Some(status.name.clone()), "pool.unpinned")));
            let is_over = self.check_pause(&status, standing.pause);
            expected.extend(is_over.then(|| (Some(status.name.clone()), "pool.resumed")));
            if let Some(standing) = self.account.pools.get_mut(&status.name) {
                standing.seen = status.paused;
                standing.pause = standing.pause.filter(|_| status.paused.is_some());
            }
            let is_down = self.check_down(&status, reports);
            expected.extend(is_down.then(|| (Some(status.name.clone()), "pool.down")));
            for backend in &status.backends {
                let key = (status.name.clone(), backend.name.clone());
                let admin = image.account.admin.get(&key).copied().unwrap_or(AdminState::Ready);
                assert_eq!(backend.admin_state, admin, "what people said of {key:?} is not in force after a restart");
                self.restarts.drains += u64::from(admin != AdminState::Ready);
                let down = image.rows.get(&key.0).and_then(|row| row.memory.downtimes.get(&key.1));
                assert_eq!(backend.downtime, down.copied().unwrap_or_default(), "the downtime of {key:?}");
                let is_routed =
                    self.table.pools[&key.0].tiers.iter().any(|t| t.routes().iter().any(|r| r.name == key.1));
                assert!(
                    !is_routed || admin == AdminState::Ready,
                    "{key:?} has a route after a restart, and is {admin}"
                );
            }
            let counted = (status.failovers, status.recoveries);
            assert_eq!(counted, (standing.failovers, standing.recoveries), "what is counted of {}", status.name);
        }
        // One that nobody checks is healthy from its first turn, as after any start.
        let is_news = |told: &&Transition| match &told.change {
            Change::BackendHealthy { backend, .. } => {
                !told.pool.as_ref().is_some_and(|pool| self.is_unchecked(pool, backend))
            }
            _ => true,
        };
        let mut told: Vec<_> =
            reports.iter().filter(is_news).map(|told| (told.pool.clone(), told.change.kind())).collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "news from a restart");
    }

    fn is_unchecked(&self, pool: &PoolName, backend: &BackendName) -> bool {
        self.plan.pools[pool].backends.iter().any(|b| b.name == *backend && b.check.kind == CheckKind::None)
    }

    /// Says whether the pool is down already, which it may be by order alone.
    fn check_down(&self, status: &PoolStatus, reports: &[Transition]) -> bool {
        if status.state != PoolState::Down {
            return false;
        }
        let may = |b: &&BackendStatus| {
            b.admin_state == AdminState::Ready && status.pinned.as_ref().is_none_or(|p| b.name == *p)
        };
        assert_eq!(status.backends.iter().find(may), None, "down before it was asked");
        let of_pool = reports.iter().filter(|told| told.pool.as_ref() == Some(&status.name));
        let why = of_pool
            .filter_map(|told| if let Change::PoolDown { reason, .. } = told.change { Some(reason) } else { None });
        assert_eq!(why.collect::<Vec<_>>(), [OutReason::Drained], "why it is down");
        true
    }

    /// Says whether it is told that the pin cannot hold.
    fn check_pin(&mut self, status: &PoolStatus, pinned: Option<&BackendName>) -> bool {
        let Some(pinned) = pinned else {
            assert_eq!(status.pinned, None, "a restart pins {}", status.name);
            return false;
        };
        if status.backends.iter().any(|backend| backend.name == *pinned) {
            assert_eq!(status.pinned.as_ref(), Some(pinned), "the pin of {} after a restart", status.name);
            self.restarts.pins += 1;
            return false;
        }
        // The tier that it stood for may be there.
        self.restarts.pins_lost += 1;
        status.pinned.is_none()
    }

    /// Says whether it is told that the pause is over.
    fn check_pause(&mut self, status: &PoolStatus, pause: Option<(WallTime, Option<WallTime>)>) -> bool {
        let left = |(since, until): (WallTime, WallTime)| between(self.wall(), until).min(between(since, until));
        let expected = pause.map(|(since, until)| until.map(|until| left((since, until))));
        let is_over = expected == Some(Some(Duration::ZERO));
        let expected = expected.filter(|_| !is_over).map(|left| left.map(|left| self.now + left));
        assert_eq!(status.paused.map(|paused| paused.until), expected, "the pause of {} after a restart", status.name);
        assert!(status.paused.is_none() || self.table.pools[&status.name].tiers.is_empty(), "a way into a paused pool");
        self.restarts.pauses += u64::from(status.paused.is_some());
        self.restarts.pauses_over += u64::from(is_over);
        is_over
    }

    /// All is well while the daemon comes up: what should serve does within a second, and nothing fails over.
    fn first_seats(&mut self) {
        self.hosts.clear();
        self.advice = Advice::default();
        let before = self.told.clone();
        self.pass(ms(1000));
        for status in self.core.pool_statuses(self.now) {
            assert_eq!(
                before.get(&status.name),
                self.told.get(&status.name),
                "a restart makes a failover: {status:#?}"
            );
            let ready = || status.backends.iter().filter(|backend| backend.admin_state == AdminState::Ready);
            let serves: Vec<&BackendStatus> = status.backends.iter().filter(|backend| backend.active).collect();
            match &status.pinned {
                Some(pinned) if ready().any(|backend| backend.name == *pinned) => {
                    assert!(serves.iter().any(|backend| backend.name == *pinned), "pinned to {pinned}: {status:#?}");
                }
                Some(_) => {}
                None => {
                    let best = ready().map(|backend| backend.priority).min();
                    assert_eq!(serves.first().map(|backend| backend.priority), best, "the first seat: {status:#?}");
                }
            }
            self.restarts.first_seats += 1;
        }
    }
}

/// How long after `earlier` it is `later`; nothing if it is not after it.
fn between(earlier: WallTime, later: WallTime) -> Duration {
    Duration::from_micros(u64::try_from(later.as_micros() - earlier.as_micros()).unwrap_or(0))
}
