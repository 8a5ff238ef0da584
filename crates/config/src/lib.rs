//! parallax.toml, parsed and checked.
