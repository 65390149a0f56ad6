//! What things can be: the states, policies and kinds of the public contract.

labelled! {
    /// What probes say of a backend.
    HealthState {
        /// No verdict yet. Not healthy.
        Unknown = "unknown",
        /// The last verdict was good.
        Healthy = "healthy",
        /// The last verdict was bad.
        Unhealthy = "unhealthy",
    }
}

labelled! {
    /// What people say of a backend.
    AdminState {
        /// It may serve.
        Ready = "ready",
        /// No new sessions; those it has go by the `drained` policy.
        Drain = "drain",
        /// As drain, and its verdicts count for nothing.
        Maintenance = "maintenance",
    }
}

labelled! {
    /// How a pool fares as a whole.
    PoolState {
        /// No verdicts yet.
        Unknown = "unknown",
        /// The preferred tier serves and every backend is fit.
        Healthy = "healthy",
        /// The preferred tier serves, but not every backend is fit.
        Degraded = "degraded",
        /// The serving tier is lost and the next one is being found.
        FailoverInProgress = "failover_in_progress",
        /// Another than the preferred tier serves.
        FailoverComplete = "failover_complete",
        /// The preferred tier is fit again and its stable time runs.
        RecoveryInProgress = "recovery_in_progress",
        /// Nothing serves.
        Down = "down",
    }
}

labelled! {
    /// How many healthy backends a pool has: 0, 1, 2, more.
    Redundancy {
        /// No healthy backend.
        None = "none",
        /// One.
        Single = "single",
        /// Two.
        Dual = "dual",
        /// Three or more.
        Multi = "multi",
    }
}

labelled! {
    /// What a pool is made of.
    PoolKind {
        /// Anything that speaks TCP.
        Tcp = "tcp",
        /// One PostgreSQL cluster: a primary, which is found out, and its standbys.
        Postgres = "postgres",
    }
}

labelled! {
    /// How new sessions are shared within a tier.
    Balance {
        /// In turn, by weight.
        RoundRobin = "round-robin",
        /// To whoever has the fewest sessions for its weight.
        LeastConnections = "least-connections",
        /// To the less loaded of two drawn by weight.
        Random = "random",
        /// Always to the same one by the client's IP address.
        SourceHash = "source-hash",
        /// To the one of two drawn by weight that answers sooner for its load.
        Latency = "latency",
    }
}

labelled! {
    /// What of that which a client sent first, and no backend answered, is sent to the next backend.
    Resend {
        /// Nothing.
        Never = "never",
        /// A greeting that is known to do nothing.
        Greeting = "greeting",
        /// Whatever it is.
        Always = "always",
    }
}

labelled! {
    /// What a new client gets while no backend of its pool is fit.
    WhenDown {
        /// It waits, up to `hold`.
        Hold = "hold",
        /// It is closed at once.
        Refuse = "refuse",
        /// It is sent to the preferred backend, fit or not.
        UsePreferred = "use-preferred",
    }
}

labelled! {
    /// How a pool returns to its preferred tier.
    Failback {
        /// By itself, once that tier has been fit for `failback_after`.
        Automatic = "automatic",
        /// On an operator's order.
        Manual = "manual",
    }
}

labelled! {
    /// What becomes of the established sessions of a backend that is taken out.
    SessionPolicy {
        /// They go on.
        Keep = "keep",
        /// They go on until `drain_timeout`, then they are closed.
        Drain = "drain",
        /// They are closed at once.
        Close = "close",
    }
}

labelled! {
    /// How log lines are written.
    LogFormat {
        /// Text on a terminal, JSON elsewhere.
        Auto = "auto",
        /// One readable line an event.
        Text = "text",
        /// One JSON object an event.
        Json = "json",
    }
}

labelled! {
    /// The least important level that is logged.
    LogLevel {
        /// Failures only.
        Error = "error",
        /// And what an operator should look at.
        Warn = "warn",
        /// And what changed.
        Info = "info",
        /// And each session's end.
        Debug = "debug",
        /// And everything else.
        Trace = "trace",
    }
}

labelled! {
    /// Which way bytes go.
    Direction {
        /// From the client to the backend.
        ClientToBackend = "client_to_backend",
        /// From the backend to the client.
        BackendToClient = "backend_to_client",
    }
}
