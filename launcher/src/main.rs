//! `parallax-launch`.

fn main() {}
