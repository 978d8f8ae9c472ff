//! Fills from several holders at once: other edges first, the shield for what they lack.
//!
//! | file | what |
//! |---|---|
//! | `swarm`, `holder` | who is asked for which chunk: values, without sockets or clock |
//! | `feed` | what one holder sends: one exchange, each chunk verified |
//! | `body` | the driver: a body's events in, the same body with its chunks out |
//! | `upstream` | what the cache asks: when holders are looked for, and what the shield is asked for then |
//! | `vouched`, `kept` | what another edge gives of an object by the word of who fetched it |
//! | `before_origin`, `mend` | what an edge asks that fetches from origins itself: other edges first |
//! | `holders`, `neighbours` | where holders come from |
//! | `quarantine`, `budget`, `metrics` | what the fills of a process share |

mod ask;
mod before_origin;
mod body;
mod budget;
mod feed;
mod holder;
mod holders;
mod kept;
mod mend;
mod metrics;
mod neighbours;
mod quarantine;
mod swarm;
mod upstream;
mod vouched;

pub use before_origin::{BeforeOrigin, MayAnswer};
pub use holder::{Offer, Patience, Tier};
pub use holders::{Candidate, Holders, Sought};
pub use metrics::FillMetrics;
pub use neighbours::{Neighbour, Neighbours};
pub use quarantine::Quarantine;
pub use swarm::{End, HOLDERS_MAX, HolderId, Step, Swarm, Trouble};
pub use upstream::{PeerFill, PeerFills, SiteKeys};
