//! Floor 3: the seam. The two planes meet here and nowhere else: the control plane publishes whole
//! tables and fences sessions; the data plane reads tables, is admitted, and reports failed dials and early ends.

mod admission;
mod cancel_keys;
mod entry;
mod feedback;
mod followed;
mod line;
mod live;
mod mailbox;
mod message;
mod pace;
mod readiness;
mod registry;
mod table_cell;

pub use admission::{Admission, Stale, Woken};
pub use cancel_keys::{CancelKeys, Learned};
pub use entry::{Pair, SessionFacts};
pub use feedback::Feedback;
pub use followed::{FOLLOWED_MAX, Follow, Followed, LastVisit};
pub use line::{InLine, Room};
pub use live::{ActiveSession, BackendLive, Live, PoolLive};
pub use mailbox::{ControlHandle, mailbox};
pub use message::{Done, Message, Outcome};
pub use pace::{Fenced, PACE_AT_ONCE, PACE_STEP, Pace};
pub use readiness::{Phase, Readiness};
pub use registry::Registry;
pub use table_cell::{Published, RouteReader, RouteWriter, route_cell};
