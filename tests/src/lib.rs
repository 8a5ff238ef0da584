//! Tests that drive the real binaries.
