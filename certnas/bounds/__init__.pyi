# What type checkers read for `certnas.bounds`, which `certnas.siblings` finds in the folder `bounds`.
from bounds import *  # noqa: F403
