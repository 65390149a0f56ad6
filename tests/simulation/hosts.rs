//! Virtual backends, and the answers that they give.

use crate::*;

/// What a host does when it is asked or dialled.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Host {
    Up,
    /// Refuses everything.
    Dead,
    /// Never answers; the probe's own deadline does.
    Hangs,
    /// Accepts, and its check is bad.
    Sick,
    /// Good or bad by the toss of a coin.
    Flaps,
    /// Its probes pass, its dials are refused.
    Lies,
    /// Answers, but after the deadline, or never.
    Late,
    /// The daemon cannot ask.
    Blind,
    /// Answers well, and takes its time, now more and now less.
    Slow,
    /// Its agent asks for this and that.
    Advises,
    /// Its probes pass, its sessions end before they are answered.
    Drops,
}

pub(crate) const MOODS: [Host; 11] = [
    Host::Up,
    Host::Dead,
    Host::Hangs,
    Host::Sick,
    Host::Flaps,
    Host::Lies,
    Host::Late,
    Host::Blind,
    Host::Slow,
    Host::Advises,
    Host::Drops,
];

/// The most that an answer may take where there is a limit.
pub(crate) const MAX_LATENCY: Duration = ms(100);

impl World {
    pub(crate) fn host(&mut self, name: &str) -> Host {
        *self.hosts.entry(name.to_owned()).or_insert(Host::Up)
    }

    /// Sends a question off; its answer comes as the host feels.
    pub(crate) fn ask(&mut self, host: Host, target: TargetId, probe: ProbeId, timeout: Duration) {
        let quick = Duration::from_micros(self.rng.u64(50..20_000));
        let failed = |error: ProbeError| ProbeOutcome::Failed { error, detail: error.label().to_owned() };
        let passed = ProbeOutcome::Passed { latency: quick, advice: self.advice };
        let slow = ms(self.rng.u64(40..300));
        let sick = failed(ProbeError::Check(CheckError::UnexpectedStatus));
        let (after, outcome) = match host {
            Host::Up | Host::Lies | Host::Drops => (quick, passed),
            Host::Slow => (slow, ProbeOutcome::Passed { latency: slow, advice: self.advice }),
            Host::Advises => {
                let admin = self.rng.choice(AdminState::ALL).copied().filter(|_| self.rng.bool());
                let weight = [0, 1, 50, 100][self.rng.usize(..4)];
                let advice = Advice { admin, weight: Some(weight).filter(|_| self.rng.bool()) };
                (quick, ProbeOutcome::Passed { latency: quick, advice })
            }
            Host::Dead => (quick / 10, failed(ProbeError::Dial(DialError::Refused))),
            Host::Hangs => (timeout, failed(ProbeError::Dial(DialError::TimedOut))),
            Host::Sick => (quick, sick),
            Host::Flaps if self.rng.bool() => (quick, passed),
            Host::Flaps => (quick, sick),
            Host::Late if self.rng.bool() => return,
            Host::Late => (timeout * self.rng.u32(1..5), passed),
            Host::Blind => (quick, ProbeOutcome::Inconclusive { error: None, detail: "no descriptor".to_owned() }),
        };
        self.sent += 1;
        self.answers.insert((self.now + after, self.sent), (target, probe, outcome));
    }
}
