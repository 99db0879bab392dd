//! docker below an overlay: its unit, containers and images.
//!
//! While the docker below answers, its images and containers are fetched when they are first asked for. A change stays in the upper world.
//! While docker does not run, what it has is known after apply: its private files are not read, because their format is docker's own.
//!
//! Not here: the behaviour of the simulated docker (`host::fake::docker`), how the host below asks docker (`host::live::docker`), and units
//! in general (`services`). Start with `containers`.

pub(in crate::host::overlay) mod containers;
