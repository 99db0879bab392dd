//! pf9-comms against a plane in this process. `plane` has the plane and a proxy, `tunnels` what is carried, `refused` what is not, `ingress` goes through
//! HAProxy, `daemon` is the program itself.

mod daemon;
mod ingress;
mod plane;
mod refused;
mod simulated;
mod tunnels;
