from lab.conftest import *  # noqa: F403 - the tiny models and options
