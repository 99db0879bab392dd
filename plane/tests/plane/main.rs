//! The plane with a real HAProxy before it, and hosts with pf9-comms.

mod client;
mod databases;
mod expired;
mod hello;
mod hosts;
mod ingress;
mod message_queue;
mod revoked;
mod running;
mod tokens;
