//! How many sessions the file descriptors are enough for.

use crate::dial::PROGRAMS_MAX;
use crate::model::{Attach, Plan, PoolKind};
use crate::relay::PIPES_MAX;
use crate::session::BROADCASTS_MAX;
use crate::sys::Descriptors;

/// Descriptors of a session whose connection to its backend is a program: the client's; ours of its connection, of its standard
/// error and of its process; and while it is started one more.
const OF_A_PROGRAM: usize = 5;

/// How many sessions there may be at once: as configured, or what the descriptors allow at two each, or five with a program,
/// with some left for listeners, probes and the admin server, and for the pipes and the broadcast cancels of `threads` threads.
pub(super) fn session_limit(plan: &Plan, threads: usize, descriptors: Descriptors) -> usize {
    let limit = descriptors.limit;
    let clusters = plan.pools.values().filter(|pool| pool.kind == PoolKind::Postgres);
    let servers = clusters.map(|pool| pool.backends.len()).max().unwrap_or(0);
    let reserve = (limit / 4).min(1024 + threads * (2 * PIPES_MAX + servers * BROADCASTS_MAX));
    let allowed = allowed_sessions(limit - reserve, has_programs(plan));
    if plan.daemon.max_sessions > allowed {
        tracing::warn!(
            max_sessions = plan.daemon.max_sessions,
            descriptors = limit,
            "max_sessions is more than the descriptor limit allows, which is {allowed}; raise LimitNOFILE"
        );
    }
    if plan.daemon.max_sessions == 0 { allowed } else { plan.daemon.max_sessions }
}

/// As many sessions as `descriptors` suffice for, whatever backends they are with.
fn allowed_sessions(descriptors: usize, has_programs: bool) -> usize {
    let programs = if has_programs { PROGRAMS_MAX.min(descriptors / OF_A_PROGRAM) } else { 0 };
    programs + (descriptors - programs * OF_A_PROGRAM) / 2
}

/// Whether some backend is reached by a program for each connection.
fn has_programs(plan: &Plan) -> bool {
    let mut backends = plan.pools.values().flat_map(|pool| &pool.backends);
    backends.any(|backend| backend.approach.via.as_ref().is_some_and(|via| via.attach == Attach::Stdio))
}

#[cfg(test)]
mod tests {
    use super::allowed_sessions;

    #[test]
    fn programs_leave_room_for_fewer_sessions() {
        for (descriptors, plain, with_programs) in
            [(768, 384, 153 + 1), (2560, 1280, 512), (100_000, 50_000, 49_232), (0, 0, 0)]
        {
            assert_eq!(allowed_sessions(descriptors, false), plain);
            assert_eq!(allowed_sessions(descriptors, true), with_programs);
        }
    }
}
