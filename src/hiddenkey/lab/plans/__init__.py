"""Plans of comparisons: what they hold, how they are read and checked."""
