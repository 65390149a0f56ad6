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
    /// As it is asked for.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().unwrap().get_name().to_owned()
    }
}

/// The figures, and each one's name and unit.
macro_rules! figures {
    ($($figure:ident => $label:literal,)+) => {
        /// One figure, a row of the table. Less is better in the first group, more in the second.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Figure {
            $($figure,)+
        }

        impl Figure {
            /// In the order of the table's rows.
            pub(crate) const ALL: &[Self] = &[$(Self::$figure,)+];

            /// The row's name and unit.
            pub(crate) fn label(self) -> &'static str {
                match self {
                    $(Self::$figure => $label,)+
                }
            }
        }
    };
}

figures! {
    PpC64Cpu => "pp-c64 us/req",
    PpC1Cpu => "pp-c1 us/req",
    PpC1P50 => "pp-c1 p50 us",
    Rate5kP50 => "rate5k p50 us",
    Rate5kP99 => "rate5k p99 us",
    Rate5kCpu => "rate5k us/req",
    DownCpu => "down ms/GB",
    BothCpu => "both ms/GB",
    ConnectCpu => "connect us",
    MemoryOne => "rest 1B B/sess",
    MemoryMuch => "rest 64K B/sess",
    MemoryAfter => "closed +MB",
    PpC64Rate => "pp-c64 k/s",
    PpC1Rate => "pp-c1 k/s",
    DownRate => "down GB/s",
    BothRate => "both GB/s",
    ConnectRate => "connect k/s",
}

impl Figure {
    /// Whether a ratio says anything: resident memory after the close may be none at all.
    pub(crate) fn compares(self) -> bool {
        self != Self::MemoryAfter
    }
}
