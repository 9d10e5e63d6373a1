//! The wire of Waypost: what devices and servers say to each other, byte by byte.
//!
//! One PUBLISH holds one frame: [`wire::UpFrame`] on `u/<device>`, [`wire::DownFrame`] on `d/<device>`,
//! [`wire::GroupFrame`] on `g/<group>`, [`wire::Catalogue`] on `t/<locale>`. The generated types in [`wire`] are what stands on the wire; the types beside them are what it means. Bytes are
//! parsed once, at the edge, by a fallible constructor; inner code takes the parsed type and never checks again.
//!
//! The one rule: a frame that any released device has ever sent keeps its meaning. The golden vectors in
//! `proto/vectors/` hold that meaning for every language.
//!
//! Sockets, disks and clocks are other people's business.

mod cumulative;
mod down;
mod fix;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
mod ids;
mod session;
mod template;
mod topic;
mod track;
mod up;
mod window;
/// The generated messages, as `proto/waypost/v1/frame.proto` describes them.
#[allow(
    missing_docs,
    reason = "the documentation stands in the .proto file and is copied by prost"
)]
#[allow(unreachable_pub, clippy::all, reason = "generated code")]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/waypost.v1.rs"));
}

pub use cumulative::{Cumulative, MalformedRanges};
pub use down::{Author, EntryBody, MembershipChange, ReceivedEntry};
pub use fix::{BadFix, Fix, Motion, TRACK_FIXES_MAX, TrackKind, track_from_wire, track_to_wire};
#[cfg(feature = "fuzzing")]
pub use fuzzing::fuzz_frame;
pub use ids::{
    DeviceId, Epoch, Generation, GroupId, Incarnation, InvalidId, OpNumber, PersonId, Seq, SessionTag,
    StreamId,
};
pub use session::{Stamp, groups_digest, positions_digest};
pub use template::{
    BadSlots, Piece, QuickReply, SLOT_NUMBER_MAX, SLOT_TEXT_BYTES_MAX, SLOTS_MAX, Slot, SlotKind, Template,
    is_slot_name, pieces,
};
pub use topic::{InvalidTopic, Topic, TopicPrefix};
pub use track::{Grid, Line, LineOptions, Point, Pushed, Reckoning, Tick, TrackBatch, Velocity};
pub use up::{
    Body, ContentDigest, NumberedOperation, Operation, TEXT_BYTES_MAX, UNDER_WAY_MAX, UpFrameError,
    number_operations,
};
pub use window::Window;

/// Largest frame in either direction, in bytes; a larger one is refused as `TOO_LARGE` before it is decoded.
pub const FRAME_BYTES_MAX: usize = 65_536;
