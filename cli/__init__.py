"""The command line of certnas: click and rich, no mathematics."""

import certnas as _certnas  # noqa: F401  which makes this package `certnas.cli` as well
