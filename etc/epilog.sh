#!/bin/sh
# For Slurm's Epilog= (as root, on every compute node): whatever a job still holds is taken down. Needed only as a last resort, as a
# step's image goes with its slurmstepd; it costs one short message. An epilog that fails drains the node, so this one does not.
parallax status --release --job "$SLURM_JOB_ID" || true
