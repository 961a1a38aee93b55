"""Gradient noise over several training runs: tasks, models and seeds, with intervals over seeds.

``python studies/gradient_noise_runs --help`` shows its settings. One training run is measured by
the study of gradient noise.
"""
