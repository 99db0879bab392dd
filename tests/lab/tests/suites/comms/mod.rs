//! pf9-comms: `unit` runs it under its unit without a plane, `plane` with a management plane of real servers, whose services hosts use.

mod plane;
mod unit;
