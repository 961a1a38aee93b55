"""The command line: one subcommand per file, each imported only when it is called."""
