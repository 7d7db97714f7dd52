"""Training as jobs of a SLURM cluster, or of one machine: submitting, surviving, watching."""
