//! What is measured: the cells, and the figures that each of them gives.

use clap::ValueEnum;

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Cell {
    /// 64-byte requests, 64 connections, each waiting for its answer.
    PpC64,
    /// 64-byte requests, one connection in lockstep.
    PpC1,
    /// 5,000 requests a second over 64 connections, whether or not answers come.
    Rate5k,
    /// Bulk from backend to client, 4 connections.
    Down,
    /// Bulk both ways at once, 4 connections.
    Both,
    /// Connect, one byte and back, close; 32 at once.
    Connect,
    /// 8,000 sessions at rest.
    Memory,
}

impl Cell {
    pub(crate) const ALL: &[Self] =
        &[Self::PpC64, Self::PpC1, Self::Rate5k, Self::Down, Self::Both, Self::Connect, Self::Memory];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PpC64 => "pp-c64",
            Self::PpC1 => "pp-c1",
            Self::Rate5k => "rate5k",
            Self::Down => "down",
            Self::Both => "both",
            Self::Connect => "connect",
            Self::Memory => "memory",
        }
    }
}

/// One figure, a row of the table. Less is better in the first group, more in the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    PpC64Cpu,
    PpC1Cpu,
    PpC1P50,
    Rate5kP50,
    Rate5kP99,
    Rate5kCpu,
    DownCpu,
    BothCpu,
    ConnectCpu,
    MemoryOne,
    MemoryMuch,
    MemoryAfter,
    PpC64Rate,
    PpC1Rate,
    DownRate,
    BothRate,
    ConnectRate,
}

impl Figure {
    pub(crate) const ALL: &[Self] = &[
        Self::PpC64Cpu,
        Self::PpC1Cpu,
        Self::PpC1P50,
        Self::Rate5kP50,
        Self::Rate5kP99,
        Self::Rate5kCpu,
        Self::DownCpu,
        Self::BothCpu,
        Self::ConnectCpu,
        Self::MemoryOne,
        Self::MemoryMuch,
        Self::MemoryAfter,
        Self::PpC64Rate,
        Self::PpC1Rate,
        Self::DownRate,
        Self::BothRate,
        Self::ConnectRate,
    ];

    /// The row's name and unit.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::PpC64Cpu => "pp-c64 us/req",
            Self::PpC1Cpu => "pp-c1 us/req",
            Self::PpC1P50 => "pp-c1 p50 us",
            Self::Rate5kP50 => "rate5k p50 us",
            Self::Rate5kP99 => "rate5k p99 us",
            Self::Rate5kCpu => "rate5k us/req",
            Self::DownCpu => "down ms/GB",
            Self::BothCpu => "both ms/GB",
            Self::ConnectCpu => "connect us",
            Self::MemoryOne => "rest 1B B/sess",
            Self::MemoryMuch => "rest 64K B/sess",
            Self::MemoryAfter => "closed +MB",
            Self::PpC64Rate => "pp-c64 k/s",
            Self::PpC1Rate => "pp-c1 k/s",
            Self::DownRate => "down GB/s",
            Self::BothRate => "both GB/s",
            Self::ConnectRate => "connect k/s",
        }
    }

    /// Whether a ratio says anything: resident memory after the close may be none at all.
    pub(crate) fn compares(self) -> bool {
        self != Self::MemoryAfter
    }
}
