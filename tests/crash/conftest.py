from lab.compare.conftest import postgres, postgres_server, restart_postgres  # noqa: F401
from lab.conftest import *  # noqa: F403 - the tiny models and options
