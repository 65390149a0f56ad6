//! What the tests of this room share.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{Attach, Part, ProgramPlan, Text, TunnelPlan, Via};

/// A plan whose program is `argv`; none if that is empty.
pub(crate) fn plan(argv: &[&str]) -> TunnelPlan {
    let word = |word: &&str| Text(vec![Part::Shown(Arc::from(*word))]);
    let program = ProgramPlan { argv: argv.iter().map(word).collect(), env: Vec::new(), file: None };
    let target = "192.0.2.1:5432".parse().unwrap();
    let via = Via { pool: "p".into(), backend: "b".into(), attach: Attach::Address, target };
    TunnelPlan {
        via: Arc::new(via),
        provider: "command".into(),
        program: (!argv.is_empty()).then(|| Arc::new(program)),
        proxy: None,
        lookup: None,
        ready: None,
        ready_timeout: Duration::from_secs(10),
        fatal: Vec::new(),
        restart_after: 0,
        retry_initial: Duration::from_millis(100),
        retry_max: Duration::from_secs(1),
        retry_reset: Duration::from_secs(60),
        stop_grace: Duration::from_secs(5),
    }
}
