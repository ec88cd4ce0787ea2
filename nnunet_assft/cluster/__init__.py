"""Where the cases of a step and the trainings are worked on: in this process, in others, or as jobs of SLURM."""
