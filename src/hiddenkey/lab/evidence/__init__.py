"""What results show: the study table and the one rule of inference."""
