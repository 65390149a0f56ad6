//! What the two paths to a PostgreSQL server say, and what that means.

labelled! {
    /// What the session path said last.
    SessionPath {
        /// Nothing yet.
        Silent = "has said nothing yet",
        /// A session is open, and answers.
        Open = "is open",
        /// A session is open, and another one is turned away (57P03): its server waits for its clients to go.
        Shut = "is open, and no other is let in",
        /// A session is open, and does not answer in time.
        Late = "is late",
        /// The session has ended, or the login came to no end: another one is being opened.
        Lost = "was lost",
        /// It takes no session any more: the last one was ended in order.
        Stopping = "is turned away, after it was ended in order",
        /// It takes no session yet.
        Starting = "is turned away",
        /// It has as many sessions as it may.
        Full = "is one too many",
        /// It lets this user in not at all, or not to what monitoring takes.
        Denied = "is denied",
        /// Nobody listens.
        Refused = "is refused",
        /// There is no connection, or no answer on it.
        Unanswered = "is not answered",
        /// It is no PostgreSQL.
        Alien = "met no PostgreSQL",
        /// We could not try.
        Untried = "could not be tried",
    }
}

labelled! {
    /// What the accept path said last.
    AcceptPath {
        /// Nothing, since the session path said something new.
        Silent = "has not answered since",
        /// It answers.
        Answers = "answers",
        /// Nobody listens.
        Refuses = "refuses",
        /// It accepts, and says nothing.
        Mute = "accepts and says nothing",
        /// There is no connection.
        Unreachable = "cannot be reached",
        /// It answers with an error.
        Errs = "answers with an error",
        /// It is no PostgreSQL.
        Alien = "is no PostgreSQL",
    }
}

labelled! {
    /// What the two paths together mean.
    Meaning {
        /// It lives.
        Alive = "alive",
        /// Nobody listens any more.
        Dead = "dead",
        /// It is being shut down.
        Stopping = "stopping",
        /// It is starting, or recovers.
        Starting = "starting",
        /// Its host accepts, and it does nothing: stopped by a signal, or its machine hangs.
        Frozen = "frozen",
        /// Nothing comes back.
        Unreachable = "unreachable",
        /// It lives, and has too much to do, or too many sessions.
        Overloaded = "overloaded",
        /// It lives, and only the monitoring session was ended.
        SessionKilled = "session_killed",
        /// It is of another cluster.
        WrongSystem = "wrong_system",
        /// It lives, and does not let the monitor in: its role cannot be told any more.
        NoPermission = "no_permission",
        /// It is something else.
        NotPostgres = "not_postgres",
        /// Too little is known.
        Unknown = "unknown",
    }
}

labelled! {
    /// How a cluster stands as a whole.
    ClusterState {
        /// First words are waited for.
        Unknown = "unknown",
        /// One primary, and all servers are well.
        Healthy = "healthy",
        /// One primary, and a server that is not well.
        Degraded = "degraded",
        /// The primary is in doubt: new clients that write wait for the answer.
        Suspect = "suspect",
        /// Servers live, and none of them is the primary.
        NoPrimary = "no_primary",
        /// Servers say that they are the primary, and nothing proves which of them is.
        TwoPrimaries = "two_primaries",
        /// No server lives.
        AllDown = "all_down",
        /// People keep new clients or all servers out.
        Maintenance = "maintenance",
    }
}
