//! What attackers send, and what must never come of it: each module is a kind of attack, tried over
//! sockets on the gateway with real servers around it.

mod purges;
mod records;
mod shared;
mod support;
