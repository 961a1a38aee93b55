"""Experiments behind the command line; needs the extra ``lab``. Importing this package is cheap."""
