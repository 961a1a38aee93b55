"""Results of other people's programs: what their trainers leave, and tables of numbers."""
