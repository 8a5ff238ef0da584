//! `parallax-mount-program`.

fn main() {}
