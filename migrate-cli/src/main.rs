//! `parallax`.

fn main() {}
