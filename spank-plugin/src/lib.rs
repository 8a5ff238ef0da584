//! The Slurm SPANK plugin.
