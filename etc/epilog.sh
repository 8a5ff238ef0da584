#!/bin/sh
# For Slurm's Epilog= (as root, on every compute node): releases all leases that a job still has. Needed only as a last resort, since
# a lease is released when its slurmstepd ends; costs one short message. A failing epilog drains the node, so this one never fails.
parallax status --release --job "$SLURM_JOB_ID" || true
