"""Files of predictions, and the metrics that they are given."""
