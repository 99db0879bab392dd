//! A small stateful world.
