"""Jobs in a database that many processes work through; knows no comparison."""
