//! What attackers send, and what must never come of it: each module is a kind of attack, tried over
//! sockets on the gateway with real servers around it.

#![allow(clippy::expect_used, reason = "a test that has no client cannot go on")]

mod tokens;
