"""Many runs at once: a plan, workers that share a study, and the records that they leave."""
