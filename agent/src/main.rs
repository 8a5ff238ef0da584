//! `parallax-agent`.

fn main() {}
