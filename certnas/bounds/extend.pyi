# What type checkers read for `certnas.bounds.extend`, see `certnas.siblings`.
from bounds.extend import *  # noqa: F403
