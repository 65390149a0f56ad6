//! What befalls a world: clients, operators, outsiders, reloads, time.

use crate::*;

impl World {
    /// A client comes: it picks from the table, dials, tries the next, and is admitted if no fence forbids.
    pub(crate) fn client(&mut self) {
        let names: Vec<PoolName> = self.table.pools.keys().cloned().collect();
        let Some(name) = self.rng.choice(names) else { return };
        let table = Arc::clone(&self.table);
        let routes = &table.pools[&name];
        let status = self.core.pool_status(self.now, &name).unwrap();
        let policy = Arc::clone(&self.plan.pools[&name]);
        let mut tried = Vec::new();
        let turn = self.rng.u64(..);
        while tried.len() < routes.dial.connect_attempts {
            let arrival = Arrival {
                target: None,
                turn,
                client: turn.rotate_left(7),
                chance: self.rng.u64(..),
                tried: &tried,
                will_wait: false,
            };
            let Ok(route) = routes.pick(&arrival) else { break };
            let chosen = status.backends.iter().find(|b| b.id == route.backend).expect("a route to nobody");
            check_choice(&policy, &status, chosen);
            assert!(!tried.contains(&route.backend), "tried twice");
            tried.push(route.backend);
            let host = self.host(&route.address.host());
            let error = match host {
                Host::Up | Host::Sick | Host::Late | Host::Flaps | Host::Slow | Host::Advises | Host::Drops => None,
                Host::Dead | Host::Lies => Some(DialError::Refused),
                Host::Hangs => Some(DialError::TimedOut),
                Host::Blind => Some(DialError::Local),
            };
            let Some(error) = error else {
                let fence = self.fences.get(&route.backend).copied().unwrap_or_default();
                assert!(route.epoch >= fence, "the present table leads behind a fence");
                self.sessions.push(Session { backend: route.backend, epoch: route.epoch });
                if host == Host::Drops {
                    let sessions = self.rng.u32(1..50);
                    self.feed(Event::EndedEarly {
                        backend: route.backend,
                        epoch: route.epoch,
                        sessions,
                        answered: false,
                    });
                }
                break;
            };
            self.feed(Event::DialFailed { backend: route.backend, epoch: route.epoch, error });
        }
    }

    pub(crate) fn step(&mut self) {
        match self.rng.u8(..103) {
            0..33 => self.client(),
            33..40 => self.outsider(),
            40..42 => self.stall(),
            42 => self.stuck(),
            43..46 => self.direct(),
            46..60 => {
                let host = ["a", "b", "c", "d", "e", "f"][self.rng.usize(..6)].to_owned();
                let mood = if self.rng.bool() { Host::Up } else { MOODS[self.rng.usize(..MOODS.len())] };
                self.note(format!("{host} is {mood:?}"));
                self.hosts.insert(host, mood);
            }
            60..65 => {
                let all: Vec<BackendId> = self.backends().iter().map(|b| b.id).collect();
                if let Some(backend) = self.rng.choice(all) {
                    let state = AdminState::ALL[self.rng.usize(..3)];
                    self.order(backend, state);
                }
            }
            65..67 => {
                let plan = draw_plan(&mut self.rng);
                self.plan = Arc::clone(&plan);
                // A pool that comes again is another one.
                self.told.retain(|pool, _| plan.pools.contains_key(pool));
                self.feed(replaced(plan));
            }
            67 => {
                // A jump that nobody has noticed: the next turn is late.
                self.now = self.now + self.jump(ms(1), ms(60_000));
                self.feed(Event::Tick);
            }
            100 => {
                let in_good_order = self.rng.u8(..4) == 0;
                self.restart(in_good_order);
            }
            101 | 102 => {
                let mood = [Mood::Well, Mood::Well, Mood::Slow, Mood::Full, Mood::Hangs][self.rng.usize(..5)];
                self.note(format!("the disk is {mood:?}"));
                self.disk.change_mood(self.now, mood);
            }
            68..95 => {
                let time = ms(self.rng.u64(1..400));
                self.pass(time);
            }
            _ => {
                let time = ms(self.rng.u64(1000..8000));
                self.pass(time);
            }
        }
    }

    /// An operator says who serves, or whether clients wait; what is refused has no effect.
    pub(crate) fn direct(&mut self) {
        let names: Vec<PoolName> = self.plan.pools.keys().cloned().collect();
        let Some(pool) = self.rng.choice(names) else { return };
        let order = match self.rng.u8(..8) {
            0..3 => {
                let to = (self.rng.u8(..4) > 0).then(|| ["a", "b", "c", "d", "e", "f"][self.rng.usize(..6)].into());
                let sessions = SessionPolicy::ALL[self.rng.usize(..3)];
                Order::Failover { pool, to, reason: None, sessions }
            }
            3..5 => Order::Failback { pool },
            5 => {
                let time = self.rng.bool().then(|| ms(self.rng.u64(1..5000)));
                Order::Pause { pool, until: time.map(|time| self.now + time) }
            }
            _ => Order::Resume { pool },
        };
        self.feed(Event::Tick);
        let refusal = self.core.refusal(self.now, &order);
        let before = (self.core.pool_statuses(self.now), Arc::clone(&self.table), self.open.clone());
        self.feed(Event::Ordered { actor: Actor::from("ops"), order: order.clone() });
        match refusal {
            Some(refusal) => {
                self.note(format!("  {refusal}"));
                let (statuses, table, open) = before;
                assert_eq!(statuses, self.core.pool_statuses(self.now), "a refused order changes something");
                assert!(Arc::ptr_eq(&table, &self.table) && open == self.open, "a refused order does something");
                self.orders.1 += 1;
            }
            None => self.check_obeyed(&order),
        }
    }

    /// What is so right after an order that was carried out.
    pub(crate) fn check_obeyed(&mut self, order: &Order) {
        self.orders.0 += 1;
        let status = self.core.pool_status(self.now, order.pool()).unwrap();
        let active: Vec<&BackendStatus> = status.backends.iter().filter(|b| b.active).collect();
        match order {
            Order::Failover { to, .. } => {
                assert!(!active.is_empty(), "{order:?} to what does not serve");
                assert!(to.is_none() || (active.len() == 1 && Some(&active[0].name) == to.as_ref()), "{status:#?}");
            }
            Order::Failback { .. } => {
                let best = status.backends.iter().find(|b| b.eligible && !b.slow).map(|b| b.priority);
                assert_eq!(status.pinned, None);
                let serves = active.first().map(|b| b.priority);
                assert!(best.is_none() || serves == best, "not the best that is fit: {status:#?}");
            }
            Order::Pause { .. } => assert!(status.paused.is_some()),
            Order::Resume { .. } => assert!(status.paused.is_none()),
            _ => {}
        }
    }

    /// Somebody outside has something to say.
    pub(crate) fn outsider(&mut self) {
        let named: Vec<_> = self.core.backends().map(|(_, pool, name, _)| (pool.clone(), name.clone())).collect();
        let Some((pool, backend)) = self.rng.choice(named) else { return };
        let order = match self.rng.u8(..8) {
            0..3 => Order::ReportFailure { pool, backend, error: "could not use it".to_owned() },
            3 => Order::ReportSuccess { pool, backend },
            4 | 5 => {
                let (health, ttl) = (HealthState::ALL[self.rng.usize(..3)], ms(self.rng.u64(0..5000)));
                let pushed = PushedHealth { health, until: self.now + ttl, reason: None, figures: Vec::new() };
                Order::PushHealth { pool, backend, pushed }
            }
            6 => Order::Reset { pool, backend: Some(backend).filter(|_| self.rng.bool()) },
            _ => Order::Probe { pool, backend: Some(backend).filter(|_| self.rng.bool()) },
        };
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }

    /// A time that nobody lived through; a machine may also sleep for days.
    fn jump(&mut self, least: Duration, most: Duration) -> Duration {
        let (least, most) = match self.rng.u8(..8) {
            0 => (ms(60_000), ms(300_000_000)),
            _ => (least, most),
        };
        Duration::from_micros(
            self.rng.u64(u64::try_from(least.as_micros()).unwrap()..u64::try_from(most.as_micros()).unwrap()),
        )
    }

    /// The control task does not run for a while. What was out may come back by that, nothing that was fit goes.
    pub(crate) fn stall(&mut self) {
        let since = self.now;
        self.now = since + self.jump(ms(200), ms(9000));
        let healthy = |world: &Self| -> BTreeSet<BackendId> {
            world.backends().iter().filter(|b| b.health == HealthState::Healthy).map(|b| b.id).collect()
        };
        let before = healthy(self);
        self.feed(Event::WasStalled { since });
        assert!(before.is_subset(&healthy(self)), "a verdict from a time in which nobody looked");
    }

    /// What live sessions send is not acknowledged.
    pub(crate) fn stuck(&mut self) {
        let session = self.sessions.last().map(|session| (session.backend, session.epoch));
        let Some((backend, epoch)) = session else { return };
        let before = self.statuses();
        let due = self.core.next_deadline();
        self.feed(Event::DataStalled { backend, epoch, silent: ms(500) });
        if due.is_none_or(|due| due > self.now) {
            assert_eq!(before, self.statuses(), "a verdict from sessions that are stuck");
        }
    }

    pub(crate) fn order(&mut self, id: BackendId, state: AdminState) {
        let (_, pool, backend, _) = self.core.backends().find(|(known, ..)| *known == id).unwrap();
        let order = Order::SetAdminState { pool: pool.clone(), backend: backend.clone(), state };
        self.feed(Event::Ordered { actor: Actor::from("ops"), order });
    }
}

/// Whom a session may be sent to at the time of its pick.
pub(crate) fn check_choice(policy: &PoolPlan, status: &PoolStatus, chosen: &BackendStatus) {
    let PoolStatus { state, backends: all, .. } = status;
    assert!(status.paused.is_none(), "{} gets a client of a paused pool", chosen.name);
    if let Some(pinned) = status.pinned.as_ref().and_then(|name| all.iter().find(|b| b.name == *name)) {
        let may = chosen.active || !all.iter().any(|b| b.active);
        assert!(may && chosen.priority == pinned.priority, "{} serves a pool pinned to {}", chosen.name, pinned.name);
    }
    let is_down = matches!(state, PoolState::Unknown | PoolState::Down | PoolState::FailoverInProgress);
    if is_down {
        assert_eq!(policy.hold.when_down, WhenDown::UsePreferred, "{} serves while the pool is {state}", chosen.name);
        assert_eq!(chosen.admin_state, AdminState::Ready, "people took {} out", chosen.name);
        return;
    }
    assert!(chosen.eligible, "{} is not eligible", chosen.name);
    if !policy.failover.automatic {
        let active = all.iter().find(|b| b.active).map(|b| b.priority);
        assert_eq!(Some(chosen.priority), active, "a session leaves the active tier though automatic is off");
    }
}
