//! nodelet.
fn main() {}
