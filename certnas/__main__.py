"""`python -m certnas`: the command line."""

from importlib import import_module

import_module("certnas.cli.main").main()
