"""The three axes as data and arithmetic; knows no model."""
