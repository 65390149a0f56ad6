//! The two written tables: what the two paths to a server mean together, and what that makes of the server. Whatever is
//! done about a server goes by the second, so that what people read of it and what is done cannot differ.
//!
//! | it is | so |
//! |---|---|
//! | alive, overloaded, session_killed, no_permission, wrong_system | it **serves**, in the part that it has |
//! | dead, frozen, unreachable | it is **doubted**: nobody new writes there, and it is asked on. The second refusal, silence on both paths or the check's threshold is the verdict |
//! | stopping, while its session lives | it is **shut**: nobody new is sent there, and the sessions that it has stay |
//! | stopping, starting, not_postgres, by what the session path was told | it is **out**, and what it answers on the accept path is no sign of health |
//! | not_postgres, by the accept path alone | doubted: its check's threshold is the verdict |
//! | unknown | doubted if its session was lost, and otherwise there is nothing against it |

use crate::model::{AcceptPath, Meaning, SessionPath};

/// What a server's meaning makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing is against it.
    Serves,
    /// Nobody new writes there until the accept path has answered, or there is a verdict.
    Doubted,
    /// It lets nobody in that is new; the sessions that it has go on.
    Shut,
    /// It is not fit, by its own word.
    Out,
}

/// The table of meanings.
pub(super) const fn meaning(session: SessionPath, accept: AcceptPath) -> Meaning {
    use Meaning::{Alive, Dead, Frozen, NoPermission, NotPostgres, Overloaded, SessionKilled, Unknown, Unreachable};
    match (session, accept) {
        // Proof, whatever the session path says: nobody listens, or something else does.
        (_, AcceptPath::Refuses) => Dead,
        (_, AcceptPath::Alien) | (SessionPath::Alien, AcceptPath::Silent | AcceptPath::Answers | AcceptPath::Errs) => {
            NotPostgres
        }
        // It says itself what it is doing.
        (SessionPath::Stopping | SessionPath::Shut, _) => Meaning::Stopping,
        (SessionPath::Starting, _) => Meaning::Starting,
        // An open session that answers is life; that no new one is served is told apart.
        (SessionPath::Open, AcceptPath::Silent | AcceptPath::Answers) => Alive,
        (SessionPath::Open, AcceptPath::Mute | AcceptPath::Unreachable) => Frozen,
        // The accept path speaks for the server where the session path does not.
        (SessionPath::Late | SessionPath::Unanswered | SessionPath::Full, AcceptPath::Answers | AcceptPath::Errs)
        | (SessionPath::Full, AcceptPath::Silent)
        | (
            SessionPath::Open | SessionPath::Lost | SessionPath::Silent | SessionPath::Denied | SessionPath::Untried,
            AcceptPath::Errs,
        ) => Overloaded,
        (SessionPath::Lost, AcceptPath::Answers) => SessionKilled,
        (SessionPath::Denied, AcceptPath::Silent | AcceptPath::Answers) => NoPermission,
        // It listens again, and has not let us in yet.
        (SessionPath::Refused, AcceptPath::Answers | AcceptPath::Errs) => Meaning::Starting,
        (SessionPath::Refused, AcceptPath::Silent) => Dead,
        (_, AcceptPath::Unreachable) | (SessionPath::Late | SessionPath::Unanswered, AcceptPath::Silent) => Unreachable,
        (_, AcceptPath::Mute) => Frozen,
        (SessionPath::Silent | SessionPath::Untried, AcceptPath::Answers)
        | (SessionPath::Silent | SessionPath::Untried | SessionPath::Lost, AcceptPath::Silent) => Unknown,
    }
}

/// The table of fates. What the session path was told by the server is proof; what the accept path says alone is counted.
pub(super) const fn fate(session: SessionPath, meaning: Meaning) -> Fate {
    match (meaning, session) {
        (_, SessionPath::Shut) => Fate::Shut,
        (
            Meaning::Alive
            | Meaning::Overloaded
            | Meaning::SessionKilled
            | Meaning::WrongSystem
            | Meaning::NoPermission,
            _,
        ) => Fate::Serves,
        // The accept path speaks for it until a session says more.
        (Meaning::Starting, SessionPath::Refused) => Fate::Serves,
        (Meaning::Stopping | Meaning::Starting, _) | (Meaning::NotPostgres, SessionPath::Alien) => Fate::Out,
        (Meaning::Dead | Meaning::Frozen | Meaning::Unreachable | Meaning::NotPostgres, _)
        | (Meaning::Unknown, SessionPath::Lost) => Fate::Doubted,
        (Meaning::Unknown, _) => Fate::Serves,
    }
}
