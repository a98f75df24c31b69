//! The NAT: sessions, ports and how one gets the other (RFC 2663, 4787, 5382, 5508, 6888, 7857).
//!
//! * [`session`]: the record and its state word; [`index`]: the two tables that tell a flow's record; * [`table`]: how a record
//!   comes into them and out;
//! * [`port`]: the state of each port of the set; * [`overlap`]: which destinations a shared port already has;
//! * [`allocate`]: choosing a port; * [`mapping`]: endpoint-independent mappings and who may send to them;
//! * [`forward`]: mappings and reservations that an operator makes;
//! * [`open`]: a flow without a session gets one, [`part`] by part; * [`tcp`]: what a TCP packet does to its session;
//! * [`refusal`]: what was refused a moment ago; [`pressure`]: whether anything is short; [`quota`]: what each LAN host has; * [`sweep`]: returning what has expired;
//! * [`fragment`]: packets that come in fragments; [`hold`]: those of them that come too early.

pub mod allocate;
pub mod forward;
pub mod fragment;
pub mod hold;
pub mod index;
pub mod mapping;
pub mod open;
pub mod overlap;
pub mod part;
pub mod port;
pub mod pressure;
pub mod quota;
pub mod refusal;
pub mod session;
pub mod sweep;
pub mod table;
pub mod tcp;
