"""The automatic choice: settings by search, a confirmation on other seeds, a verdict."""
