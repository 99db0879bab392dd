//! pf9-comms against a plane in this process. `plane` has the plane and a proxy, `tunnels` what is carried, `refused` what is not, `bad_input` what is refused
//! at the start and at a reload, `ingress` goes through HAProxy, `spares` has spare connections alone, `daemon` is the program itself.

mod bad_input;
mod daemon;
mod ingress;
mod plane;
mod refused;
mod simulated;
mod spares;
mod tunnels;
