//! Floor 1: decisions. Pure and deterministic: no socket, task, clock, log, metric or hidden
//! randomness. The same seed and the same events give the same commands, so every decision can be
//! tested, simulated and explained.
//!
//! # The failover rules
//!
//! **First verdict.** A backend begins as `unknown`, and `unknown` is not healthy. Its first
//! conclusive probe decides alone; the thresholds guard only the changes after that.
//!
//! **Thresholds for flaky evidence, none for proof.** `unhealthy_threshold` failures in a row make a
//! backend unhealthy. A refusal by the kernel is stronger: it is asked again at once, and a second
//! refusal in a row ([`REFUSALS_FOR_DEATH`]) is death, whatever the thresholds say. A refused dial of
//! a client counts as the first of the two, but the verdict always wants a probe of our own.
//!
//! **Worse news is told, better news is earned.** An unhealthy backend whose evidence gets worse
//! (`check_failed`, then `unreachable`, then `dead`) is judged again, because the policy for its
//! sessions may differ. It becomes healthy by `healthy_threshold` successes in a row.
//!
//! **No evidence is no evidence.** A probe that we could not make, or judged too late, changes nothing.
//!
//! **What others tell is counted apart, in quarters.** A probe that fails counts one towards `unhealthy_threshold`. A failure
//! that somebody outside reports is worth as much ([`REPORTED_POINTS`]); a session that the backend ended before its first
//! answer ([`ENDED_POINTS`]) and a client's failed dial ([`DIAL_POINTS`]) are worth a quarter, and make us ask at once. A
//! passing probe and a reported success take one failure away ([`SUCCESS_POINTS`]). As many points as the threshold is worth
//! make a backend unhealthy for `check_failed`, and no more than one failure above that is kept. It is healthy again by `healthy_threshold`
//! passing probes with the points below that. What dials tell decides nothing within [`PATIENCE`] of the first
//! of it: thousands may meet one moment's trouble at once.
//!
//! **What any client can bring about has a backend asked, and decides alone only where nobody is answered.** A stranger makes sessions
//! end before their first answer by sending what a server does not understand, as often as he likes. Their points are void as soon
//! as the backend sends anybody a byte, and decide nothing before it has sent nobody one for [`UNANSWERED_FOR`]. Of a cluster's
//! server neither ended sessions nor failed dials count at all: each has it asked, and the accept path and the monitor judge.
//!
//! **Nobody asks, nobody can pass.** A backend with check `none` is healthy from its first turn. Only what others tell makes it
//! unhealthy, and then it is taken to be fit again after `recovery_interval` or [`UNCHECKED_RETURN`], by a reset, or by a
//! pushed `healthy`.
//!
//! **A pushed verdict holds for its time.** `unhealthy` takes a backend out whatever probes say. `healthy`, when it is news,
//! clears what was counted against it, and probes go on to decide; of a backend that is not checked it is the verdict.
//! `unknown` takes back. When its time is up it is forgotten: a source that fails is no backend that fails.
//!
//! **Recovery has its pace and its end.** An unhealthy backend is asked every `recovery_interval`, or `interval`. With
//! `recovery_attempts`, the k-th failure in a row is followed by a rest of `recovery_backoff`, doubled k - 1 times, and of
//! at most [`RECOVERY_WAIT_MAX`]; after the last of them it is asked no more until it is reset, its check is changed, or it is
//! pushed `healthy`.
//!
//! **A reset forgets.** Every count, the pushed verdict and the attempts are gone, and it is asked at once. Nothing changes but
//! by the next verdict, which one answer makes.
//!
//! **Slow is not down.** `unhealthy_threshold` answers in a row that take longer than `max_latency`, or as many failures that
//! such answers are among, make a backend slow. A slow backend is passed over for new sessions once a fit one that may serve is
//! faster by [`MIN_GAIN`], by smoothed latency, and until it is not slow any more or nothing fit is left. Otherwise it goes on
//! serving, and the pool is degraded. An empty seat goes to fit tiers before slow ones, and slow tiers are not returned to.
//! It is fit again by `healthy_threshold` answers in a row within [`SLOW_EXIT`] of the limit, and not before [`SLOW_HOLD`].
//! No session is ever closed for it. One that was worse than slow, and answers slowly, is slow.
//!
//! **Time in which we did not run is no evidence.** After it every open question is void and put anew, spread in time, and
//! what was counted against backends that serve is taken back.
//!
//! **Stuck sessions ask.** Bytes that a backend does not acknowledge make us ask at once, and are where detection begins if
//! the answer is bad. By themselves they decide nothing.
//!
//! **Four voices, joined once.** What probes say, what outsiders say, what people say and what the backend's agent asks for are
//! kept apart and meet in one truth table ([`Availability`]). Of people and the agent the stricter wins; an agent also asks for
//! a share of the weight, and none of it is as good as drained for new sessions.
//!
//! **Tiers.** Backends of one priority are a tier; the lowest number that is fit is preferred. One
//! tier is active and shares the new sessions by weight. A client whose dial fails goes on to the
//! next backend of the tier and then to the other fit tiers, unless `automatic` is off.
//!
//! **Balances share, they do not decide.** Within a tier new sessions are shared by the pool's balance. The counts of sessions
//! and the latency that some balances look at are handed on in the table and read by picks alone: no verdict, seat
//! or table follows from them. Chance comes with each arrival.
//!
//! **Full is not down.** A backend with `max_connections` sessions is passed over as one that was tried is: for the next of its
//! tier, then for the next tier, unless `automatic` is off. It stays fit, and no seat changes.
//!
//! **The first seat is patient.** The first tier ever seated waits until no better tier is still
//! without a verdict, so that a daemon that has just started serves from the preferred backend. Backends that people keep out
//! are not waited for, and that another serves first instead of them is no failover.
//!
//! **An empty seat is filled at once.** When the active tier has nothing fit left, the best fit tier
//! takes over in the same turn. While nothing at all is fit, backends are asked again every
//! [`EMPTY_POOL_PROBE_INTERVAL`], unless their `recovery_interval` is set, and a success is followed up
//! at once. Where there are more than a thousand targets, it is a tenth of a millisecond for each.
//!
//! **Return is a policy.** A better tier that is fit again takes over only after it has been so for
//! `failback_after`, and only if `failback` and `automatic` allow it. A reload that renumbers tiers moves nothing: the backends that
//! serve go on serving, and what is better by the new numbers is returned to like any better tier.
//!
//! **A return that does not last makes the next one wait.** If the tier that was returned to is lost by a verdict within twice
//! the stable time that was in force, that is a bounce. The stable time is `failback_after` as long as nothing bounces; each bounce
//! doubles it, from [`DAMPING_FLOOR`] up if `failback_after` is shorter, to [`DAMPING_CAP`] at most unless that is longer. Twice the
//! present stable time of quiet, in which nothing moves and no tier becomes fit or unfit, takes one bounce back.
//!
//! **A pin is hard.** An operator's failover binds the pool to one backend or, if none is named, to the best other tier that is fit.
//! New sessions go there and nowhere else until it is released: not back to a better tier, not on to another one when it is lost, and
//! not by a retried dial. If what it is bound to is lost, the pool is down. The sessions of those that served until then go as the
//! order says. A pin works with `automatic` off, and outlives a reload or a restart while a backend of that
//! name, or another one of the tier that it was pinned to, is in the plan. A failback
//! releases it and serves from the best tier that is fit at once, without the stable time; it does so without a pin, too.
//!
//! **A pause makes new clients wait, whatever `when_down` says.** Sessions go on, and so do decisions; the table has no
//! tiers until the pause ends, by order or when its time is up.
//!
//! **A failover has a number and a life.** The number is one more than the pool's last, also after a restart. It is
//! `pending` when what served is lost, `in_progress` and `completed` when something else serves, or `failed` when nothing is
//! fit and no verdict is out, or what was lost serves again first. What is decided at once is told in one turn. After one that failed, another tier that becomes fit is another failover. With `automatic` off, or while the
//! pool is pinned, none is begun. Whoever served and takes the seat by another name, at the same address or proven by its line, takes it from
//! nobody: while it may turn out to be so, none is begun either.
//!
//! **A backend behind a tunnel is asked while the way there is open.** A tunnel that is not up is proof of death, in the words of its
//! program; before the first one is up, or has failed, or `ready_timeout` has passed, its backend has no verdict. What was asked
//! through an older run says nothing.
//!
//! **Three thresholds, apart.** A run through which no check has come within `ready_timeout` is ended, and until then none for checks
//! that fail. The check's thresholds take its backend out and in. Only `restart_after` failed checks in a row end a run that has led
//! somewhere, and not while its sessions move bytes, for [`MOVING_MAX`] at most.
//!
//! **Tries are ever rarer.** Each wait is drawn between [`RETRY_FLOOR`] and a limit that doubles, from `retry_initial` to `retry_max`, and
//! begins anew after `retry_reset` in which checks came through. After [`TRIES_MAX`] failed tries within [`TRIES_WITHIN`] it has failed,
//! and is tried as rarely as `retry_max` allows; after words that say that it will never work, every [`SLOW_RETRY`]. One whose program cannot be
//! started has failed from that try until it can be, and is tried as often as any. An order or
//! another plan forgets all that; another network ends a wait. A plan that differs only in these times and counts leaves a run alone. Never is a tunnel started twice within [`START_GAP`].
//!
//! **A dead target is no broken tunnel.** Tunnels of a pool with one target are siblings. When all that were healthy fail there, and
//! not on the way, all are unhealthy in one turn and none is started anew; but one at a time after [`SILENCE_RESTART`], then twice as
//! long, to [`SILENCE_RESTART_MAX`]. The first check that passes ends it, and so does a healthy backend
//! that no tunnel leads to (`beyond.rs`).
//!
//! **A restart forgets no order.** Pins, pauses, admin states and counters are in force with the first plan, before anything
//! is decided ([`Event::Restored`]), silently. A pool that was pinned waits for what it is pinned to, and a pause has what was left of its time.
//!
//! **An order that is refused changes nothing**, and says why.
//!
//! **What is decided can be explained.** [`Controller::explain`] names the rules that apply, the evidence, and what would happen if
//! all that serve failed now; [`Controller::evaluate`] says whether the pool should fail over, or what stands in the way. Both only
//! look, and a property test holds them to what the pool then does.
//!
//! **Sessions go by the reason.** What becomes of the sessions of a backend that is taken out depends
//! on why: keep, drain until `drain_timeout`, or close at once. The table is published before
//! sessions are fenced. Sessions that drain stay after all if their backend is healthy, or made ready, again.
//!
//! # The rules of clusters
//!
//! A pool of kind `postgres` is one PostgreSQL cluster. All of the above holds for it, and its servers are judged besides by what
//! they say of themselves. Somebody else promotes; the core notices.
//!
//! **Two paths, one meaning.** Each server is heard on two paths: a monitoring session that is held open, and the accept path, which
//! is its probe. What each said last has one written meaning, and each meaning one written fate (`meanings.rs`): the first is what people
//! are shown, the second what is done. Only time and counting are besides: a doubt that lasts, and a check's threshold.
//!
//! **An anomaly is a doubt, and the accept path is the judge.** A session that ends, a heartbeat that is late or a login that is not
//! answered is a doubt: the accept path is asked at once. If it refuses, that is the second of two refusals, and death. If it answers,
//! the server lives. If neither path gives a sign of life for `heartbeat_deadline`, of which the accept path has half at least, the
//! server is unreachable. While the session is late or lost the accept path is asked four times in each deadline. A server whose session
//! answers and that accepts and says nothing is doubted as well, and asked as often; its check's threshold is the verdict.
//! If that time was up more than a few milliseconds ago, we did not run then, and an answer may wait to be read: the doubt has half
//! a deadline more, once. After a stall of ours it has all of its time again.
//!
//! **Who is in doubt gets nobody new.** The write route of a primary in doubt is withdrawn and new clients that write wait, whatever
//! `when_down` says. Sessions go on, no failover begins and nobody is told: mostly it is over within milliseconds.
//!
//! **Whoever takes no sessions is gone.** A server that says that it cannot be connected to now (57P03) is out at once, though it
//! still accepts, and what it accepts is no sign of health until a session is open again. An open session counts as a passing probe.
//! If it says so to others while our session lives, it waits for them to go: whenever a client got no answer there, the monitor
//! is to try another login ([`Command::Knock`]). While that is turned away the server gets nobody new, and its sessions stay.
//!
//! **A source of knowledge that fails is no server that fails.** If the monitor is not let in, or is one session too many, the server
//! keeps its part and is judged by the accept path alone. A server that never let it in has no part, and gets nobody.
//!
//! **What was said before a loss counts no more.** A server that was out has no role until a session tells it anew, or the one that was
//! open goes on.
//!
//! **One write target or none.** Each server is a tier of its own, and only the primary may take the seat. It is the server that says so,
//! is fit, is of the right cluster, and whose timeline comes from all that was ever routed to. Of several claimants the higher timeline is
//! the primary if its history has the other's. Equal numbers, or no proof, are a split brain: nobody gets clients that write. The whole
//! of it is a table (`cluster.rs`).
//!
//! **Never back behind what was routed to.** The line of history that served last is remembered beyond the process, with how far it
//! was written ([`Lineage`]), also while its pool is in no plan. A primary on a lower one is refused, and so is one on another line of the
//! same or a higher number, and one that is on that very line without a promotion: a standby that was started as a primary, a copy.
//! After a start every server's first word is waited for, `check.timeout` at the most: what is remembered may have been overtaken.
//! That of a server that does not let us in is waited for as well, whatever it says of why; only where nobody listens there is none.
//!
//! **Standbys are evidence.** A standby on a line that left the one of a claimant has seen a promotion: that claimant is not taken for the
//! primary. Only one that serves already goes on, and people are told. Nobody reads from a standby of another line than the primary's.
//!
//! **What is lost is told, and a primary that lives loses no more than a little.** A promotion that left the line of a primary that still claims
//! it more than `max_lag` (16 MiB at least) behind where that is now is a split brain. If it is dead, its successor leads whatever
//! it lacks, and [`Change::PrimaryChanged`] says how much.
//!
//! **A person may decide.** A pin to a server that says that it is the primary, and is not proven to be, overrules all proof, and its line is the one that is
//! remembered from then on; the lines that were newer are not followed any more, nor what comes from them. A pin to a standby overrules
//! nothing: clients that write wait until it is promoted, and that failover is pending until then. Released, the pool follows the primary by
//! proof. With `automatic` off a new primary is not followed.
//!
//! **Whoever is the primary no more is fenced first.** When another server is the primary, or a server lives and is none any more,
//! all of its sessions go by the policy `demoted`: those that came to read can write there since its promotion, through which they stay.
//! A new write target is published only after these fences: first the table without it, then the fences, then the table with it, in the
//! same turn or, on a new line of history, once that is on disk.
//!
//! **A name is no server.** Whoever is named anew, or whose address is spelt otherwise, is another backend and may be the same server: the
//! sessions of the backend that it was stay as long as it is the primary, which its address or its line proves, and go with the role. A
//! name that is given to another server proves nothing, neither for its sessions nor for its claim (`gone.rs`).
//!
//! **A new line of history is on disk before anybody is sent there.** Who is about to lead is written down first
//! ([`Command::KeepLineage`]), while the one before is fenced; clients wait for [`Event::LineageKept`], or [`KEPT_WITHIN`]: a disk
//! that hangs stops no failover.
//!
//! **Nothing begins at whoever is the primary no more.** Whatever `demoted` says of sessions that have begun, those that write
//! and whose server has not answered yet are given another one.
//!
//! **Without a primary clients wait while any server lives.** The pool is down only when none does, and then nobody is sent to a
//! server that is not the primary, whatever `when_down` says.
//!
//! **Readers have their own routes.** `standby` leads to standbys by priority, `prefer-standby` to them and then to the primary, `any` to
//! all that are one of both. They go on without a primary; a pause concerns them, and nobody reaches
//! a primary that those who write are not led to, because of a pin or for whatever reason.
//!
//! **Behind is measured against the primary, by our own clock.** In bytes from its newest place to what a standby has replayed, in time
//! since the first moment at which the primary was seen further on. Who is behind by more than `max_lag` or `max_lag_time` gets no new
//! sessions until it is behind by at most half of both. An idle primary leaves nobody behind, and without one nothing is measured.
//! What was measured counts for seconds, and is not known after that. Who is not known to be near is read from while nobody else is.
//! A standby that is on another line, or has replayed what the primary's history left out, is read by nobody.

mod advised;
mod announce;
mod availability;
mod balance;
mod behind;
mod beyond;
mod change;
mod cluster;
mod controller;
mod damping;
mod demotion;
mod departures;
mod doubt;
mod evaluate;
mod event;
mod evidence;
mod explain;
mod figures;
mod gone;
mod health;
mod hearing;
mod invariants;
mod keeping;
mod lag;
mod latency;
mod lifecycle;
mod line;
mod meanings;
mod member;
mod memory;
mod order;
mod orders;
mod outside;
mod passive;
mod pause;
mod phase;
mod pin;
mod pool;
mod primary;
mod publish;
mod pushed;
pub mod recording;
mod recovery;
mod replan;
mod routes;
mod schedule;
mod seat;
mod server;
mod slots;
mod standing;
mod status;
mod table;
mod targets;
mod tier;
mod tries;
mod tunnel;
mod tunnels;
mod watched;
mod watches;
mod weigh;

pub use availability::{Availability, Voices};
pub use beyond::{MOVING_MAX, SILENCE_RESTART, SILENCE_RESTART_MAX};
pub use change::{Change, Transition};
pub use controller::Controller;
pub use damping::{DAMPING_CAP, DAMPING_FLOOR};
pub use event::{Command, Event, Sessions};
pub use figures::Figures;
pub use health::REFUSALS_FOR_DEATH;
pub use keeping::KEPT_WITHIN;
pub use latency::{MIN_GAIN, SLOW_EXIT, SLOW_HOLD, SLOW_HOLD_INTERVALS};
pub use line::{Lineage, Rejected};
pub use memory::{PinMemory, PoolMemory};
pub use order::{Order, Refusal, TunnelOrder};
pub use outside::UNCHECKED_RETURN;
pub use passive::{
    DIAL_POINTS, ENDED_POINTS, PATIENCE, POINTS_PER_FAILURE, REPORTED_POINTS, SUCCESS_POINTS, UNANSWERED_FOR,
};
pub use recovery::RECOVERY_WAIT_MAX;
pub use schedule::EMPTY_POOL_PROBE_INTERVAL;
pub use server::Part;
pub use slots::client_key;
pub use table::{Arrival, NoRoute, PoolRoutes, PoolServer, Route, RouteTable, TargetRoutes};
pub use tier::{DRAWS, EXACT_MAX, LATENCY_GRAIN, Tier};
pub use tries::{LOCAL_RETRY, NUDGE_GAP, RETRY_FLOOR, SLOW_JITTER, SLOW_RETRY, START_GAP, TRIES_MAX, TRIES_WITHIN};

#[cfg(test)]
mod tests;
